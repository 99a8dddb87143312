"""What is not trained is saved once, and what the loss or a callback assigns to, each time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import odyssey_jax as ody
from odyssey_jax.store import Reader, Store
from tests.examples import assert_same

X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
DATA = ody.ArrayDataset({"x": X, "y": X[:, :3]}, 8)


class Lora(nnx.Module):
    """A base in int8, an adapter, and batch statistics."""

    def __init__(self, sign=1):
        rngs = nnx.Rngs(0)
        self.base = nnx.Param(sign * jnp.arange(-6, 6, dtype=jnp.int8).reshape(4, 3))
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.lora = nnx.LoRA(4, 2, 3, rngs=rngs)

    def __call__(self, x):
        return self.norm(x) @ (self.base[...].astype(x.dtype) / 10) + self.lora(x)


def mse(model, batch):
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)


def lora(sign=1):
    return ody.nnx_task(Lora(sign), mse, trainable=nnx.LoRAParam)


def fit(task, directory, *callbacks, data=DATA, epochs=3, keep_last=9, **more):
    saving = ody.checkpoint(every_epochs=1, keep_last=keep_last)
    how = {"epochs": epochs, "directory": directory, "writers": []} | more
    return ody.fit(task, optax.adam(1e-2), data, callbacks=[saving, *callbacks], **how)


def files(directory, *names):
    """The file that a leaf is in, for each step."""
    checkpoints = directory / "checkpoints"
    reader = Reader(checkpoints)
    found = []
    for step in reader.steps():
        arrays = {leaf.name: leaf.array for leaf in reader.leaves(step)}
        state = checkpoints / str(step) / "state"
        found.append({next((state / arrays[name]).glob("0*")).stat().st_ino for name in names})
    return [min(each) for each in found if len(each) == 1]


def times(directory, name):
    """How often a leaf was written."""
    return len(set(files(directory, name)))


BASE = "state/model_state/untrained/base"
KERNEL = "state/params/lora/lora_a"


@pytest.mark.parametrize("read", [False, True])
def test_a_base_is_written_once_and_a_run_goes_on_to_the_bit(tmp_path, read):
    more = {"data": {"x": X, "y": X[:, :3]}, "batch_size": 8} if read else {}
    whole = fit(lora(), tmp_path / "whole", epochs=5, **more)
    fit(lora(), tmp_path / "run", epochs=2, **more)
    result = fit(lora(), tmp_path / "run", epochs=5, **more)
    assert_same(result.state, whole.state)
    for run in ("whole", "run"):
        assert [times(tmp_path / run, name) for name in (BASE, KERNEL)] == [1, 5]
    params = ody.load_params(tmp_path / "run")
    assert_same(params["base"], np.asarray(Lora().base[...]))
    assert times(tmp_path / "run", "state/model_state/updated/norm/mean") == 5


def test_a_base_goes_with_the_last_step_that_has_it(tmp_path):
    best = ody.checkpoint(every_epochs=1, keep_last=1, keep_best=1, monitor="train/loss")
    how = {"epochs": 4, "directory": tmp_path, "writers": []}
    ody.fit(lora(), optax.adam(1e-2), DATA, callbacks=best, **how)
    (first,) = set(files(tmp_path, BASE))
    result = ody.fit(lora(-1), optax.adam(1e-2), DATA, callbacks=best, resume=False, **how)
    assert first not in files(tmp_path, BASE)
    assert_same(ody.load_params(tmp_path)["base"], np.asarray(Lora(-1).base[...]))
    assert result.state.model_state.untrained["base"].dtype == jnp.int8


class Teacher(nnx.Module):
    """A teacher that follows, and a base that stays."""

    def __init__(self):
        self.w = nnx.Param(jnp.ones((4, 3)))
        self.teacher = nnx.Param(jnp.zeros((4, 3)))
        self.base = nnx.Param(jnp.ones((4, 3)))

    def __call__(self, x):
        return x @ (self.w[...] * self.base[...])


def following(model, batch):
    model.teacher[...] = 0.9 * model.teacher[...] + 0.1 * model.w[...]
    return mse(model, batch)


def teaching():
    return ody.nnx_task(Teacher(), following, trainable=nnx.PathContains("w"))


TEACHER = "state/model_state/untrained/teacher"


def test_what_the_loss_assigns_to_is_saved_each_time(tmp_path):
    result = fit(teaching(), tmp_path)
    assert [times(tmp_path, name) for name in (BASE, TEACHER)] == [1, 3]
    saved = [Reader(tmp_path / "checkpoints").values(step) for step in (2, 4, 6)]
    teachers = [one[".state.model_state.untrained['teacher']"] for one in saved]
    assert not np.array_equal(*teachers[:2])
    assert_same(teachers[-1], np.asarray(result.state.model_state.untrained["teacher"]))


def test_what_is_frozen_is_written_once(tmp_path):
    task = ody.pure_task(
        {"w": jnp.ones((4, 3)), "base": jnp.ones((4, 3))},
        lambda p, batch: mse(lambda x: x @ (p["w"] * p["base"]), batch),
    )
    how = {"epochs": 3, "directory": tmp_path, "writers": []}
    saving = ody.checkpoint(every_epochs=1, keep_last=9)
    ody.fit(task, ody.freeze(optax.adam(1e-2), ["^base$"]), DATA, callbacks=saving, **how)
    assert [times(tmp_path, f"state/params/{name}") for name in ("base", "w")] == [1, 3]


def test_the_best_snapshot_has_no_other_base(tmp_path):
    """It is written with the first step that has one, and found again by a resume."""
    best = ody.early_stopping("train/loss", patience=9, restore_best=True)
    whole = fit(lora(), tmp_path / "whole", best, epochs=4)
    fit(lora(), tmp_path / "run", best, epochs=2)
    result = fit(lora(), tmp_path / "run", best, epochs=4)
    assert_same(result.state, whole.state)
    names = [leaf.name for leaf in Reader(tmp_path / "run" / "checkpoints").leaves(8)]
    (snapshot,) = (name for name in names if name.endswith("snapshot/1/untrained/base"))
    for run in ("whole", "run"):
        assert [times(tmp_path / run, name) for name in (BASE, snapshot)] == [1, 1]


def test_what_a_callback_replaces_is_saved_each_time(tmp_path):
    def replace(state, event):
        untrained = jax.tree.map(lambda x: x + 1, event.state.model_state.untrained)
        new = event.state._replace(
            model_state=event.state.model_state._replace(untrained=untrained)
        )
        return state, ody.Signal.none()._replace(state=new)

    replacing = ody.callback(
        init=lambda event: (), update=replace, points=[ody.Point.EPOCH_END], saves=False
    )
    fit(lora(), tmp_path, replacing)
    assert times(tmp_path, BASE) == 3
    base = ody.load_params(tmp_path)["base"]
    assert_same(base, np.asarray(Lora().base[...]) + np.int8(3))


def test_mixed_precision_leaves_it_as_it_is(tmp_path):
    fit(ody.mixed_precision(teaching()), tmp_path)
    assert [times(tmp_path, name) for name in (BASE, TEACHER)] == [1, 3]


def test_without_jit_it_is_found_all_the_same(tmp_path):
    with jax.disable_jit():
        fit(lora(), tmp_path, epochs=2)
    assert [times(tmp_path, name) for name in (BASE, KERNEL)] == [1, 2]


def test_a_run_without_it_names_nothing(tmp_path, monkeypatch):
    named, save = [], Store.save

    def note(*args, **more):
        named.append(more.get("constant"))
        return save(*args, **more)

    monkeypatch.setattr(Store, "save", note)
    task = ody.pure_task({"w": jnp.ones((4, 3))}, lambda p, b: mse(lambda x: x @ p["w"], b))
    fit(task, tmp_path)
    assert named == [[], [], []]
