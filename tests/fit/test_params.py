"""The parameters of a run: without its model, into another one, and for other tools."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from flax import nnx

import odyssey_jax as ody
from odyssey_jax.train._resident import Resident
from tests import examples
from tests.examples import assert_same


def run(task, directory=None, epochs=3, **kwargs):
    return ody.fit(
        task, optax.adam(1e-2), examples.train_data(), examples.valid_data(), epochs=epochs,
        directory=directory, writers=[], **kwargs,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose best epoch by "valid/accuracy" is not its last."""
    directory = tmp_path_factory.mktemp("run")
    keep = ody.checkpoint(
        every_epochs=1, keep_last=None, keep_best=1, monitor="valid/loss", mode="max"
    )
    return directory, run(examples.nnx_task(), directory, callbacks=keep)


def same(a, b):
    examples.assert_same(jax.tree.map(np.asarray, a), jax.tree.map(np.asarray, b))


def test_parameters_alone_without_the_model(finished):
    directory, result = finished
    params = ody.load_params(directory)
    assert {type(leaf) for leaf in jax.tree.leaves(params)} == {np.ndarray}
    same(params, result.state.params)
    same(ody.load_params(directory, subtree="state/model_state"), result.state.model_state)
    same(ody.load_params(directory / "checkpoints", step=15), params)


def test_a_target_may_be_the_state_of_a_model(finished):
    directory, result = finished
    model = nnx.eval_shape(lambda: examples.NnxModel(nnx.Rngs(1)))
    state = ody.load_params(directory, nnx.state(model, nnx.Param))
    assert isinstance(state["hidden"]["kernel"], nnx.Param)
    same(nnx.to_pure_dict(state), result.state.params)
    state["hidden"]["other"] = nnx.Param(None)  # as of a layer without a bias
    same(ody.load_params(directory, state), state)
    with pytest.raises(TypeError, match=r"a model, NnxModel: pass nnx.state\(model, nnx.Param\)"):
        ody.load_params(directory, model)
    placed = ody.load_params(directory, nnx.state(model, nnx.Param), placement=four())
    assert len(placed["hidden"]["kernel"][...].sharding.device_set) == 4


@pytest.mark.slow
def test_a_machine_without_the_optimizer_and_the_model(finished):
    program = (
        "import sys, odyssey_jax as ody\n"
        "params = ody.load_params(sys.argv[1])\n"
        "assert not any('examples' in name for name in sys.modules)\n"
        "print(params['hidden']['kernel'].shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, finished[0]], capture_output=True, text=True, check=True
    )
    assert done.stdout == "(4, 8)\n"


def test_the_best_is_by_the_runs_own_metric(finished):
    directory, result = finished
    losses = result.history["valid/loss"]
    first = ody.load_params(directory, step=5)
    assert losses.argmax() == 0
    same(ody.load_params(directory, step="best"), first)
    last = 5 * (losses.argmin() + 1)
    same(
        ody.load_params(directory, step="best", monitor="valid/loss", mode="min"),
        ody.load_params(directory, step=int(last)),
    )


def test_what_is_not_there_is_named(tmp_path):
    with ody.Store(tmp_path) as store:
        tree = {"state": {"params": {"w": jnp.ones(2)}}}
        store.save(1, tree, {"metrics": {"train/loss": 0.5}})
        store.wait()
        with pytest.raises(ody.errors.CheckpointError, match=r"with monitor='valid/loss'"):
            ody.load_params(tmp_path, step="best")
        raw = {"subtree": "state/params"}
        best = ody.load_params(tmp_path, step="best", monitor="train/loss", **raw)
        assert best["w"].tolist() == [1, 1]
        with pytest.raises(
            ody.errors.CheckpointError, match="no subtree 'state/weights'; there are 'st"
        ):
            ody.load_params(tmp_path, subtree="state/weights")
        with pytest.raises(ValueError, match="a transfer needs a target"):
            ody.load_params(tmp_path, transfer=ody.Transfer(ignore=["w"]))
        for step in ("best", "latest"):
            with pytest.raises(
                ody.errors.CheckpointNotFoundError, match="there is no checkpoint in"
            ):
                ody.load_params(tmp_path / "nowhere", step=step)


def test_a_run_begins_from_another_ones_parameters(finished):
    """The trunk of a trained model under a head for another number of classes."""
    directory, result = finished

    class Other(nnx.Module):
        def __init__(self, rngs):
            self.trunk = examples.NnxModel(rngs)
            self.trunk.head = nnx.Linear(8, 5, rngs=rngs)

        def __call__(self, x):
            return self.trunk(x)

    model = Other(nnx.Rngs(1))
    own = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    transfer = ody.Transfer(rename={"^": "trunk/"}, initialize=["^trunk/head/"])
    params = ody.load_params(directory, own, transfer=transfer)
    same(params["trunk"]["hidden"], result.state.params["hidden"])
    same(params["trunk"]["head"], own["trunk"]["head"])
    nnx.update(model, params)
    began = ody.nnx_task(model, examples.nnx_loss).init(None)[0]
    same(began, params)
    with pytest.raises(ody.errors.CheckpointMismatchError, match=r"missing .*'trunk'"):
        ody.load_params(directory, own)


@pytest.mark.slow
def test_a_linen_run_begins_from_another_ones_parameters(tmp_path):
    task = examples.linen_task()
    first = run(task, tmp_path, epochs=1)
    params = ody.load_params(tmp_path)
    model_state = ody.load_params(tmp_path, subtree="state/model_state")
    warm = task._replace(init=lambda key: (params, model_state))
    second = run(warm, epochs=1)
    assert second.metrics["train/loss"] < first.metrics["train/loss"]
    same(warm.init(None)[0], first.state.params)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    loaded = ody.load_params(tmp_path, target)
    assert {isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded)} == {True}
    same(loaded, params)


def test_export_for_orbax_and_safetensors(finished, tmp_path):
    directory, result = finished
    path = ody.export_params(directory, tmp_path / "params")
    with ocp.StandardCheckpointer() as reader:
        same(reader.restore(path), result.state.params)
    best = ody.export_params(directory, tmp_path / "x", "best", format="safetensors")
    suffixed = ody.export_params(directory, tmp_path / "x.SafeTensors", "best")
    assert suffixed.read_bytes() == best.read_bytes()
    found = safetensors.numpy.load_file(best)
    assert sorted(found) == ["head.bias", "head.kernel", "hidden.kernel", "norm.bias", "norm.scale"]
    same(found["head.kernel"], ody.load_params(directory, step=5)["head"]["kernel"])
    with safetensors.safe_open(best, "np") as file:
        assert file.metadata() == {"step": "5"}


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("x.safetensors", "orbax", "is the name of a .safetensors file and not of format='orbax'"),
        ("x.npz", None, "'x.npz' is the name of a .npz file: written are files that end in"),
        ("x.pt", "safetensors", "a .pt file and not of format='safetensors'"),
    ],
)
def test_what_is_written_is_what_the_suffix_says(finished, tmp_path, name, format, message):
    with pytest.raises(ValueError, match=message):
        ody.export_params(finished[0], tmp_path / name, format=format)
    assert not os.listdir(tmp_path)


def test_a_store_of_ones_own_is_read_too(tmp_path):
    with ody.Store(tmp_path) as store:
        store.save(1, {"net": {"w": jnp.ones(2)}, "n": 3}, {})
    assert ody.load_params(tmp_path, subtree="net")["w"].tolist() == [1, 1]
    assert ody.load_params(tmp_path, subtree="")["n"] == 3


def returned(tmp_path, dtype=jnp.float32, optimizer=optax.sgd, **kwargs):
    """A run whose last parameters are not those that `fit` returns."""
    params = {"w": jnp.zeros((4, 3), dtype), "b": jnp.zeros(3, dtype)}
    return ody.fit(
        ody.pure_task(params, examples.linear_loss), optimizer, examples.train_data(),
        examples.valid_data(), epochs=4, directory=tmp_path, writers=[],
        **{"learning_rate": ody.schedules.piecewise_constant([0.1, 30.0], [12]), **kwargs},
    )  # fmt: skip


RESTORE = ody.early_stopping("valid/loss", 99, restore_best=True)
KEEP = ody.checkpoint(keep_best=1, monitor="valid/loss")


def schedule_free(rate):
    return optax.contrib.schedule_free(optax.sgd(rate), rate)


def lookahead(rate):
    return optax.lookahead(optax.sgd(rate), 7, 0.5)


def sam(rate, steps=7):
    """Seven steps a turn, so that what is saved is in the middle of one."""
    perturbs = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    return optax.contrib.sam(optax.sgd(rate), perturbs, sync_period=steps)


@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        (jnp.float32, {}),
        (jnp.float32, {"average": ody.exponential_average(0.9)}),
        (jnp.bfloat16, {"average": ody.exponential_average(0.9)}),
        (jnp.float32, {"optimizer": schedule_free}),
        (jnp.bfloat16, {"optimizer": schedule_free}),
        (jnp.float32, {"optimizer": lambda rate: ody.freeze(schedule_free(rate), ["^b$"])}),
        (jnp.float32, {"optimizer": schedule_free, "callbacks": RESTORE}),
        (jnp.bfloat16, {"optimizer": lookahead}),
        (jnp.float32, {"optimizer": sam}),
        (jnp.float32, {"optimizer": lambda rate: ody.freeze(sam(rate), ["^b$"])}),
        (jnp.float32, {"callbacks": RESTORE}),
        (jnp.float32, {"callbacks": ody.all_of(ody.callbacks.on(ody.every(epochs=1), RESTORE))}),
        (jnp.bfloat16, {"callbacks": RESTORE, "average": ody.exponential_average(0.9)}),
    ],
)
def test_what_is_loaded_is_what_fit_returned(tmp_path, dtype, how):
    result = returned(tmp_path, dtype, **how)
    loaded = ody.load_params(tmp_path)
    if "optimizer" in how:  # they are evaluated anew, on the host
        assert_close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6)
        jax.tree.map(assert_close, loaded, jax.device_get(result.model))
    else:
        assert_same(loaded, jax.tree.map(np.asarray, result.model))
    assert_same(ody.load_params(tmp_path, result.model), jax.tree.map(jnp.asarray, loaded))
    path = ody.export_params(tmp_path, tmp_path / "x.safetensors")
    exported = safetensors.numpy.load_file(path) if dtype == jnp.float32 else None
    if exported is not None:
        assert_same(exported, dict(loaded))
    if "callbacks" in how:  # the best epoch is in the last checkpoint alone
        best = ody.load_params(tmp_path, step="best", monitor="valid/loss")
        assert_same(best, loaded)
    raw = ody.load_params(tmp_path, subtree="state/params")
    assert_same(raw, jax.tree.map(np.asarray, result.carry.state.params))
    if how:
        assert (raw["w"] != loaded["w"]).any()


def test_at_the_end_of_a_turn_the_parameters_are_loaded_as_they_lie(tmp_path):
    result = returned(tmp_path, optimizer=lambda rate: sam(rate, steps=5))  # of 20
    assert_same(ody.load_params(tmp_path), jax.device_get(result.model))
    cache = ody.load_params(tmp_path, subtree="state/opt_state/cache")
    assert (cache["w"] != result.model["w"]).any()


@pytest.mark.parametrize("average", [None, ody.exponential_average(0.9)])
def test_the_best_are_those_that_were_measured_there(tmp_path, average):
    """Not what a callback restores by then, nor the parameters that no one measured."""
    result = returned(tmp_path, callbacks=KEEP, average=average)
    best = ody.load_params(tmp_path, step="best")
    task = ody.pure_task(best, examples.linear_loss)
    loss = ody.evaluate(task, ody.TrainState(best), examples.valid_data())["loss"]
    losses = result.history["valid/loss"]
    assert losses.argmin() < 3
    np.testing.assert_allclose(loss, losses.min(), rtol=1e-6)


def test_of_several_optimizers_each_part_is_evaluated_where_its_own_is(tmp_path):
    rates = {"w": 0.1, "b": 0.5}
    result = returned(
        tmp_path, optimizer={"w": schedule_free, "b": lookahead}, learning_rate=rates,
        callbacks=ody.checkpoint(every_epochs=1),
    )  # fmt: skip
    loaded = ody.load_params(tmp_path)
    np.testing.assert_allclose(loaded["w"], result.model["w"], rtol=1e-6)
    assert_same(loaded["b"], np.asarray(result.model["b"]))
    raw = ody.load_params(tmp_path, subtree="state/params")
    assert all((loaded[part] != raw[part]).any() for part in rates)


def test_a_schedule_free_run_says_where_it_is_evaluated_in_the_words_of_before(
    tmp_path, monkeypatch
):
    paths = Resident.result_paths

    def of_before(self, carry):
        found = dict(paths(self, carry))
        return {**found, "schedule_free": [pair[1:] for pair in found.pop("elsewhere")]}

    monkeypatch.setattr(Resident, "result_paths", of_before)
    result = returned(tmp_path, optimizer=schedule_free)
    loaded = ody.load_params(tmp_path)
    np.testing.assert_allclose(loaded["w"], result.model["w"], rtol=1e-6)
    assert (loaded["w"] != ody.load_params(tmp_path, subtree="state/params")["w"]).any()


def four(**kwargs):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    return ody.fully_sharded(mesh, min_size=4, **kwargs)


@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        (jnp.float32, {"pack_below": 1}),
        (jnp.bfloat16, {"average": ody.exponential_average(0.9)}),
        (jnp.float32, {"optimizer": schedule_free}),
    ],
    ids=["raw", "average", "schedule-free"],
)
def test_a_placement_says_where_what_is_loaded_lies(tmp_path, dtype, how, monkeypatch):
    if "pack_below" in how:  # under its own name, and so read by parts
        monkeypatch.setattr(ody.Store.__init__, "__kwdefaults__", {
            **ody.Store.__init__.__kwdefaults__, "pack_below": how["pack_below"],
        })  # fmt: skip
        how = {}
    result = returned(tmp_path, dtype, **how)
    whole = ody.load_params(tmp_path)
    for target in (None, result.model, whole):
        found = ody.load_params(tmp_path, target, placement=four())
        assert_same(found, jax.tree.map(jnp.asarray, whole))
        assert {shard.data.shape for shard in found["w"].addressable_shards} == {(1, 3)}
        assert found["b"].sharding.is_fully_replicated
        assert len(found["b"].sharding.device_set) == 4
    again = ody.load_params(tmp_path, found, placement=ody.parallel.as_given(four().mesh))
    assert again["w"].sharding == ody.load_params(tmp_path, found)["w"].sharding
    assert again["w"].sharding == found["w"].sharding
    rules = ody.sharded(four().mesh, {"^w$": jax.P(None)})
    assert ody.load_params(tmp_path, placement=rules)["w"].sharding.is_fully_replicated
    one = ody.load_params(tmp_path, placement=ody.parallel.one_device())
    assert_same(one, jax.tree.map(jnp.asarray, whole))
    assert one["w"].devices() == {jax.devices()[0]}
    # What is initialized has the target's value, in the placement.
    wider = {**result.model, "new": jnp.arange(8.0)}
    wider = ody.load_params(
        tmp_path, wider, transfer=ody.Transfer(initialize=["^new$"]), placement=four()
    )
    assert_same(wider["new"], jnp.arange(8.0))
    assert {shard.data.shape for shard in wider["new"].addressable_shards} == {(2,)}
    assert_same({name: wider[name] for name in whole}, jax.tree.map(jnp.asarray, whole))


def test_a_placement_that_does_not_go_with_what_is_there_is_refused(tmp_path):
    returned(tmp_path)
    with pytest.raises(ValueError, match=r"'kernel\$' is found in no parameter's path: b, w"):
        ody.load_params(tmp_path, placement=ody.sharded(four().mesh, {"kernel$": jax.P("data")}))
    rules = ody.sharded(four().mesh, {"w": jax.P(None, "data")})
    with pytest.raises(ValueError, match=r"'w' of shape \[4, 3\] can't be cut"):
        ody.load_params(tmp_path, placement=rules)
    with pytest.raises(ValueError, match="none of the arrays lies on one"):
        ody.load_params(tmp_path, placement=ody.parallel.as_given(four().mesh))
    with pytest.raises(TypeError, match="placement must be from ody.data_parallel, .*got Mesh"):
        ody.load_params(tmp_path, placement=four().mesh)


def test_a_target_of_an_average_keeps_its_kind_and_its_place(tmp_path):
    model = returned(tmp_path, jnp.bfloat16, average=ody.exponential_average(0.9)).model
    rows = jax.NamedSharding(four().mesh, jax.P("data"))
    found = ody.load_params(tmp_path, {
        "w": jax.ShapeDtypeStruct((4, 3), jnp.bfloat16, sharding=rows),
        "b": np.zeros(3, jnp.bfloat16),
    })  # fmt: skip
    assert found["w"].sharding == rows
    assert type(found["b"]) is np.ndarray
    assert_same(found, jax.tree.map(np.asarray, model))
