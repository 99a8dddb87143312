"""Runs over several devices: they learn the same, and each device holds its part."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import AxisType, PartitionSpec

import odyssey_jax as ody
from tests import examples

P = PartitionSpec
MESH = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
RULES = {"hidden/kernel$": P(None, "model"), "head/kernel$": P("model")}
PLACEMENTS = {
    "data": (ody.data_parallel(), P()),
    "explicit": (ody.data_parallel(jax.make_mesh((8,), ("data",))), P()),
    "fully": (ody.fully_sharded(min_size=1), P(None, "data")),
    "explicit, fully": (ody.fully_sharded(jax.make_mesh((8,), ("x",)), min_size=1), P(None, "x")),
    "rules": (ody.sharded(MESH, RULES, batch=P("data")), P(None, "model")),
    "both": (
        ody.fully_sharded(MESH, rules=RULES, batch=P("data"), min_size=1),
        P("data", "model"),
    ),
}


class Model(nnx.Module):
    def __init__(self, rngs, annotated=False):
        init = nnx.initializers.lecun_normal()
        if annotated:
            init = nnx.with_partitioning(init, ("embed", "mlp"))
        self.hidden = nnx.Linear(4, 8, kernel_init=init, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, examples.CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.hidden(x))))


def fit(placement, on_host=False, task=None, **kwargs):
    data = examples.arrays(), examples.arrays(22, seed=1)
    sources = [ody.ArrayDataset(x, 8) for x in data]
    if on_host:
        sources = [ody.HostDataset(x, 8) for x in data]
    given = {
        "epochs": 3,
        "learning_rate": 0.1,
        "metrics": {"accuracy": ody.Accuracy()},
        "callbacks": ody.early_stopping("valid/loss", 9, restore_best=True),
        "average": ody.exponential_average(0.5),
        "clip_norm": 1.0,
        "writers": [],
        **kwargs,
    }
    task = ody.nnx_task(Model, examples.nnx_loss) if task is None else task
    momentum = lambda rate: optax.sgd(rate, momentum=0.9)
    return ody.fit(task, momentum, *sources, placement=placement, **given)


@pytest.fixture(scope="module")
def alone():
    return fit(None)


def assert_close(result, other):
    for name, column in other.history.items():
        np.testing.assert_allclose(result.history[name], column, rtol=2e-4, err_msg=name)


@pytest.mark.parametrize("on_host", [False, True], ids=["resident", "read"])
@pytest.mark.parametrize("name", PLACEMENTS)
def test_it_learns_what_one_device_learns(alone, name, on_host):
    placement, kernel = PLACEMENTS[name]
    result = fit(placement, on_host)
    assert_close(result, alone)
    found = {
        jax.tree_util.keystr(path): x.sharding.spec
        for path, x in jax.tree_util.tree_leaves_with_path(result.carry)
        if np.shape(x) == (4, 8)
    }
    # The parameter, its average, its momentum and its best copy.
    assert len(found) >= 4
    assert set(found.values()) == {kernel}, found
    assert result.model.hidden.kernel[...].sharding.spec == kernel
    whole = [x for x in jax.tree.leaves(result.carry) if np.ndim(x) == 0]
    assert all(x.sharding.is_fully_replicated for x in whole)


def test_annotations_of_nnx_and_of_linen(alone, tmp_path):
    placement = ody.sharded(MESH, annotations={"embed": None, "mlp": "model"}, batch=P("data"))
    task = ody.nnx_task(lambda rngs: Model(rngs, annotated=True), examples.nnx_loss)
    result = fit(placement, task=task, directory=tmp_path)
    assert_close(result, alone)
    assert result.model.hidden.kernel[...].sharding.spec == P(None, "model")
    # A target has them too, with values or without.
    with nnx.use_eager_sharding(False):
        made = nnx.eval_shape(lambda: Model(nnx.Rngs(0), annotated=True))
    for target in (nnx.state(result.model, nnx.Param), nnx.state(made, nnx.Param)):
        found = ody.load_params(tmp_path, target, placement=placement)
        assert found["hidden"]["kernel"][...].sharding.spec == P(None, "model")
        examples.assert_same(nnx.to_pure_dict(found), ody.load_params(tmp_path))

    class Boxed(linen.Module):
        partitioning: str

        @linen.compact
        def __call__(self, x):
            init = linen.initializers.lecun_normal()
            if self.partitioning:
                names = ("embed", "mlp") if "logical" in self.partitioning else (None, "model")
                init = getattr(linen, self.partitioning)(init, names)
            return linen.Dense(examples.CLASSES)(linen.relu(linen.Dense(8, kernel_init=init)(x)))

    loss = lambda apply, batch: examples.cross_entropy(apply(batch["x"]), batch["y"])
    task = lambda how: ody.linen_task(Boxed(how), loss, jnp.zeros((1, 4)))
    plain = fit(None, task=task(""))
    for how in ("with_partitioning", "with_logical_partitioning"):
        result = fit(placement, task=task(how), directory=tmp_path / how)
        assert_close(result, plain)
        params = result.model["params"]
        found = ody.load_params(tmp_path / how, params, placement=placement)
        for tree in (params, found):
            (kernel,) = jax.tree.leaves(tree["Dense_1"]["kernel"])
            assert kernel.sharding.spec == P(None, "model")


def test_a_run_goes_on_in_another_placement(alone, tmp_path, capsys):
    last = None
    for epochs, name in enumerate(("fully", "rules", None, "both", "data"), 1):
        placement = PLACEMENTS[name][0] if name else None
        last = fit(placement, epochs=epochs, directory=tmp_path)
    whole = fit(None, epochs=5)
    assert_close(last, whole)
    assert last.steps == whole.steps
    said = capsys.readouterr().err
    assert said.count("resumed from step") == 4
    places = ["data=8, fully sharded", "data=2 x model=4, by rules", "one device"]
    places += ["data=2 x model=4, by rules, fully sharded", "data=8, data parallel"]
    for then, now in itertools.pairwise(places):
        assert f"saved in the placement '{then}', goes on in '{now}', so not to the bit" in said


def test_a_model_that_is_made_in_parts_is_never_whole_on_a_device():
    """8 MB of parameters and as much of momentum: a device holds an eighth, and little else."""
    width, seen = 1448, []

    def init(key):
        return {"w": jax.random.normal(key, (width, width)) / width**0.5, "b": jnp.zeros(width)}

    def loss(params, batch):
        return ((batch @ params["w"] + params["b"]) ** 2).mean()

    def bytes_on(device):
        arrays = (x for x in jax.live_arrays() if not x.is_deleted())
        mine = (x for x in arrays if device in x.sharding.device_set)
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in mine)

    class Measure:
        open = close = lambda self, *_: None

        def write(self, rows, samples):
            seen.append([bytes_on(device) for device in jax.devices()])

    before = [bytes_on(device) for device in jax.devices()]
    result = ody.fit(
        ody.pure_task(init, loss), optax.sgd(0.1, momentum=0.9), jnp.ones((16, width)),
        batch_size=8, epochs=2, placement=ody.fully_sharded(), writers=[Measure()],
    )  # fmt: skip
    assert result.state.params["w"].sharding.spec in (P("data"), P(None, "data"))
    own = 2 * (width * width * 4) / 8 + 2 * width * 4  # the bias is small, and lies whole
    data = 16 * width * 4
    for found in seen:
        for now, then in zip(found, before, strict=True):
            assert own <= now - then <= 1.1 * own + 2 * data


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (ody.data_parallel(), {"all-reduce"}),
        (ody.fully_sharded(min_size=1), {"all-reduce", "all-gather"}),
    ],
    ids=["data", "fully"],
)
def test_the_collectives_of_the_program(placement, expected):
    """Gradients are summed; fully sharded parameters are gathered, and gradients not."""
    width = 64
    task = ody.pure_task({"w": jnp.ones((width, width))}, lambda p, x: ((x @ p["w"]) ** 2).mean())
    loop = ody.train.make_loop(task, optax.sgd(0.1), placement=placement, capacity=4)
    inputs = ody.train.Inputs(ody.ArrayDataset(jnp.ones((256, width)), 128))
    program = ody.train.Resident(task, loop, inputs)
    carry = program.init(jax.random.key(0))
    with placement.context():
        text = jax.jit(loop.run).lower(carry, program.inputs, 2).compile().as_text()
    found = set(re.findall(r"(all-reduce|all-gather|reduce-scatter|all-to-all)(?:-start)?\(", text))
    assert found == expected, found


def test_what_a_run_takes_is_said_before_it_is_trained():
    width = 256
    made = []

    def init(key):
        made.append(key)
        return {"w": jax.random.normal(key, (width, width))}

    task = ody.pure_task(init, lambda p, x: ((x @ p["w"]) ** 2).mean())
    describe = lambda placement, **more: ody.describe_run(
        task, optax.adam, jnp.ones((16, width)), batch_size=8, learning_rate=0.1,
        placement=placement, **more,
    )  # fmt: skip
    one, whole, cut = map(describe, (None, ody.data_parallel(), ody.fully_sharded(min_size=1)))
    weights = 4 * width**2
    assert one.parameters == width**2
    assert all(isinstance(key, jax.core.Tracer) for key in made)  # shapes alone
    for found, parts in ((one, 1), (whole, 1), (cut, 8)):
        held = found.bytes_per_device
        assert held["parameters"] == weights / parts
        assert held["optimizer"] == pytest.approx(2 * weights / parts, abs=32)  # and a count
        assert found.checkpoint_bytes == pytest.approx(3 * weights, rel=0.02)
    assert (one.devices, whole.devices) == (1, 8)
    assert one.collectives == {}
    assert set(whole.collectives) == {"all-reduce"}
    assert "all-gather" in cut.collectives
    assert one.step_flops > 4 * 8 * width**2 / 1.5
    assert one.fits is None
    with pytest.warns(RuntimeWarning, match=r"bytes on a device, which has 1,000,000: cut more"):
        assert describe(None, memory_bytes=10**6).fits is False
    assert describe(None, memory_bytes=10**9).fits
    assert "collectives a step" in str(cut)
    with pytest.raises(TypeError, match="unexpected keyword argument 'place'"):
        describe(None, place=1)


def test_accumulation_and_rematerialisation_in_parts(alone):
    """What is accumulated, or computed anew, is learnt as on one device."""
    remat = lambda model, batch: nnx.remat(lambda m, b: examples.nnx_loss(m, b))(model, batch)
    task = ody.nnx_task(Model, remat)
    assert_close(fit(PLACEMENTS["fully"][0], task=task), alone)
    one, cut = (
        fit(p, task=task, accumulate_steps=2, average=None) for p in (None, PLACEMENTS["fully"][0])
    )
    assert_close(cut, one)
