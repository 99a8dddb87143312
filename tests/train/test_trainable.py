"""What is trained: a part of the parameters, and all else is held, whatever the model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import odyssey_jax as ody
from odyssey_jax.train import Step, make_optimizer, train_step
from tests import examples

X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
DATA = ody.ArrayDataset({"x": X, "y": X[:, :3]}, 8)


def mse(model, batch):
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)


class Lora(nnx.Module):
    """A base in int8, with adapters."""

    def __init__(self, rngs):
        self.base = nnx.Linear(4, 3, rngs=rngs)
        self.base.kernel.set_value(jnp.arange(-6, 6, dtype=jnp.int8).reshape(4, 3))
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.lora = nnx.LoRA(4, 2, 3, rngs=rngs)

    def __call__(self, x):
        kernel = self.base.kernel[...].astype(x.dtype) / 10
        return self.norm(x) @ kernel + self.base.bias[...] + self.lora(x)


class Layers(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        x = linen.BatchNorm(use_running_average=not train)(x)
        return linen.Dense(3, name="head")(linen.Dense(4, name="base")(x))


def pure_loss(p, batch):
    base = p["base"].astype(jnp.float32)
    return mse(lambda x: x @ base @ p["head"]["w"] + p["head"]["b"], batch)


PURE = {
    "base": jnp.eye(4, dtype=jnp.int8),
    "head": {"w": jnp.zeros((4, 3)), "b": jnp.array([0.1, 0.2, 0.3])},
}
TASKS = {
    "pure": lambda: ody.pure_task(PURE, pure_loss, trainable=["^head/w"]),
    "nnx": lambda: ody.nnx_task(Lora(nnx.Rngs(0)), mse, trainable=nnx.LoRAParam),
    "linen": lambda: ody.linen_task(
        Layers(),
        lambda apply, batch, train: mse(lambda x: apply(x, train), batch),
        X,
        trainable=["^head/"],
    ),
}
TRAINED = {"pure": {"head/w"}, "nnx": {"lora/lora_a", "lora/lora_b"}, "linen": {"head/kernel"}}
TRAINED["linen"] |= {"head/bias"}


def fit(task, optimizer=None, **how):
    how = {"epochs": 2, "writers": [], **how}
    return ody.fit(task, optimizer or optax.adamw(0.05), DATA, DATA, **how)


def by_name(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def whole(kind, model):
    """All parameters of a model that `rebuild` made, by name."""
    if kind == "nnx":
        return by_name(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return by_name(model["params"] if kind == "linen" else model)


@pytest.fixture(scope="module", params=TASKS)
def run(request, tmp_path_factory):
    kind, directory = request.param, tmp_path_factory.mktemp("run")
    task = TASKS[kind]()
    how = {"average": ody.exponential_average(0.5), "clip_norm": 1.0}
    return kind, task, directory, fit(task, directory=directory, **how)


def test_only_what_is_trained_changes(run):
    kind, task, _, result = run
    key = ody.train.Keys.of(jax.random.key(0)).init
    before, after = whole(kind, task.rebuild(*task.init(key))), whole(kind, result.model)
    assert before.keys() == after.keys()
    changed = {name for name, x in before.items() if x.tobytes() != after[name].tobytes()}
    assert changed == TRAINED[kind] == set(by_name(result.state.params))
    assert {x.dtype for x in after.values()} == {x.dtype for x in before.values()}


def test_what_is_not_trained_is_in_no_moment_norm_or_average(run):
    kind, task, _, result = run
    raw = result.carry.state
    shapes = {x.shape for x in by_name(raw.opt_state).values()} - {()}
    assert shapes == {x.shape for x in jax.tree.leaves(raw.params)}
    assert not jax.tree.leaves(raw.average.model_state.untrained)
    assert set(by_name(raw.average.params)) == TRAINED[kind]
    optimizer = make_optimizer(optax.sgd(0.1))
    before = raw._replace(opt_state=optimizer.init(raw.params), average=None)
    batch = {"x": jnp.asarray(X), "y": jnp.asarray(X[:, :3])}
    _, outputs = train_step(before, batch, Step(jax.random.key(1), loss=task.loss), optimizer)
    np.testing.assert_allclose(outputs["param_norm"], optax.tree.norm(raw.params), rtol=1e-6)


def test_batch_statistics_move_and_are_averaged(run):
    kind, _, _, result = run
    if kind != "pure":
        trained, averaged = result.carry.state.model_state, result.state.model_state
        for raw, mean in zip(*map(jax.tree.leaves, (trained[0], averaged[0])), strict=True):
            assert bool(jnp.any(raw != mean))


def test_parameters_are_read_and_exported_whole(run, tmp_path):
    kind, _, directory, result = run
    want = whole(kind, result.model)
    loaded = ody.load_params(directory)
    mine = {name: x for name, x in by_name(loaded).items() if name in want}
    examples.assert_same(mine, want)
    assert not {name for name in by_name(loaded) if name not in want and kind != "nnx"}
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), loaded)
    examples.assert_same(by_name(ody.load_params(directory, target)), by_name(loaded))
    path = ody.export_params(directory, tmp_path / "model.safetensors")
    from safetensors.numpy import load_file

    assert {name.replace(".", "/") for name in load_file(path)} == set(by_name(loaded))


def test_a_resume_is_exact(run, tmp_path):
    kind, _, _, result = run
    how = {"average": ody.exponential_average(0.5), "clip_norm": 1.0, "directory": tmp_path}
    fit(TASKS[kind](), epochs=1, **how)
    again = fit(TASKS[kind](), **how)
    examples.assert_same(again.carry.state, result.carry.state)


@pytest.mark.parametrize("kind", TASKS)
def test_the_best_is_restored_whole(kind, tmp_path):
    best = ody.early_stopping("train/loss", 5, mode="max", restore_best=True)
    result = fit(TASKS[kind](), epochs=3, callbacks=best, directory=tmp_path)
    assert result.best_epoch == 0
    want = whole(kind, result.model)
    loaded = by_name(ody.load_params(tmp_path))
    examples.assert_same({name: loaded[name] for name in want}, want)


def test_half_precision_computes_in_it_and_loses_no_bit_of_what_is_held():
    seen = []

    def loss(p, batch):
        seen.append({x.dtype.name for x in jax.tree.leaves(p)})
        return pure_loss(jax.tree.map(lambda x: x.astype(jnp.float32), p), batch)

    task = ody.mixed_precision(ody.pure_task(PURE, loss, trainable=["^head/w"]))
    result = fit(task)
    assert seen[0] == {"bfloat16", "int8"}
    np.testing.assert_array_equal(result.model["head"]["b"], PURE["head"]["b"])


# What the loss assigns.


class Taught(nnx.Module):
    def __init__(self, rngs):
        self.student, self.teacher = nnx.Linear(4, 3, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)


def distil(assigned):
    def loss(model, batch, train):
        if train:
            ours, theirs = model.student.kernel, model.teacher.kernel
            mean = 0.9 * theirs[...] + 0.1 * jax.lax.stop_gradient(ours[...])
            (theirs if assigned == "teacher" else ours).set_value(mean)
        return mse(model.student, batch) + mse(model.teacher, batch)

    return loss


STUDENT = nnx.All(nnx.Param, nnx.PathContains("student"))


@pytest.mark.parametrize("cast", [lambda task: task, ody.mixed_precision], ids=["float32", "half"])
def test_a_teacher_follows_its_student(cast):
    model = Taught(nnx.Rngs(0))
    result = fit(cast(ody.nnx_task(model, distil("teacher"), trainable=STUDENT)), epochs=1)
    moved, bias = result.model.teacher.kernel[...], result.model.teacher.bias[...]
    assert moved.dtype == jnp.float32
    assert bool(jnp.any(moved != model.teacher.kernel[...]))
    np.testing.assert_array_equal(bias, model.teacher.bias[...])


def test_an_assignment_to_what_is_trained_is_named():
    task = ody.nnx_task(Taught(nnx.Rngs(0)), distil("student"), trainable=STUDENT)
    with pytest.raises(ValueError, match=r"assigns to the parameters \['student/kernel'\]"):
        fit(task)


class Assigns(linen.Module):
    @linen.compact
    def __call__(self, x, name):
        params = {n: self.variable("params", n, jnp.ones, (4, 3)) for n in ("kernel", "target")}
        params[name].value = params["target"].value * 0.5
        return x @ params["kernel"].value


@pytest.mark.parametrize("name", ["target", "kernel"])
def test_a_linen_loss_may_assign_to_what_is_not_trained(name):
    loss = lambda apply, batch: mse(lambda x: apply(x, name, mutable=["params"])[0], batch)
    task = ody.linen_task(Assigns(), loss, X, "target", trainable=["kernel"])
    if name == "kernel":
        with pytest.raises(ValueError, match=r"assigns to the parameters \['kernel'\]"):
            fit(task)
        return
    before = task.rebuild(*task.init(jax.random.key(0)))["params"]["target"]
    # Two steps an epoch, and none in validation.
    after = fit(task, epochs=2).model["params"]["target"]
    np.testing.assert_array_equal(after, before / 2**4)


# Where a run begins.


def test_adapters_begin_on_a_base_that_was_trained(tmp_path):
    class Base(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.layer(x)

    class Adapted(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.LoRALinear(4, 3, lora_rank=2, rngs=rngs)

        def __call__(self, x):
            return self.layer(x)

    base = fit(ody.nnx_task(Base(nnx.Rngs(0)), mse), directory=tmp_path / "base").model
    model = Adapted(nnx.Rngs(1))
    own = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    transfer = ody.Transfer(initialize=["lora_"])
    nnx.update(model, ody.load_params(tmp_path / "base", own, transfer=transfer))
    task = ody.nnx_task(model, mse, trainable=nnx.LoRAParam)
    adapted = fit(task, directory=tmp_path / "adapted").model
    for name in ("kernel", "bias"):
        want = getattr(base.layer, name)[...]
        np.testing.assert_array_equal(getattr(adapted.layer, name)[...], want)
    # And back: the base alone of the adapted run.
    target = nnx.to_pure_dict(nnx.state(base, nnx.Param))
    found = ody.load_params(tmp_path / "adapted", target, transfer=ody.Transfer(ignore=["lora_"]))
    examples.assert_same(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, target))


# What is refused.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ody.pure_task(PURE, pure_loss, trainable="head"), "must be a sequence of patt"),
        (lambda: ody.pure_task(PURE, pure_loss, trainable=[]), "must be a sequence of patterns"),
        (lambda: ody.pure_task(PURE, pure_loss, trainable=["(x"]), "is no regular expression"),
        (
            lambda: ody.pure_task(PURE, pure_loss, trainable=["tail"]),
            "'tail' is found in no parameter; there are: base, head/b, head/w",
        ),
        (
            lambda: ody.nnx_task(Taught(nnx.Rngs(0)), mse, trainable=nnx.LoRAParam),
            "Taught has no variable of trainable=.*LoRAParam.*it has Param",
        ),
        (
            lambda: fit(ody.linen_task(linen.Dense(3), mse, X, trainable=["tail"])),
            "'tail' is found in no parameter; there are: bias, kernel",
        ),
        (
            lambda: fit(ody.pure_task(PURE, pure_loss)),
            "parameter 'base' is int8.*leave it out of what the task trains, by its trainable=",
        ),
    ],
)
def test_what_trains_nothing_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_task_that_trains_a_part_checks():
    for make in TASKS.values():
        ody.testing.check_task(make(), {"x": jnp.asarray(X), "y": jnp.asarray(X[:, :3])})
