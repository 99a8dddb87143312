"""Frozen parameters: untouched to the bit, and without a place in the optimizer's state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples


@pytest.mark.parametrize("name", ["nnx", "linen"])
def test_frozen_parameters_stay_to_the_bit(name):
    task = examples.TASKS[name]()
    first, _ = task.init(ody.train.Keys.of(jax.random.key(0)).init)
    layer = {"nnx": "hidden", "linen": "Dense_0"}[name]
    result = ody.fit(
        task, lambda rate: ody.freeze(optax.adamw(rate), [f"{layer}/"]), examples.train_data(),
        epochs=2, learning_rate=0.05, writers=[],
    )  # fmt: skip
    find = lambda params: jax.tree.leaves((params.get("params") or params)[layer])
    for before, after in zip(find(first), find(result.state.params), strict=True):
        np.testing.assert_array_equal(before, after)
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), first, result.state.params)
    assert sum(jax.tree.leaves(changed)) == len(jax.tree.leaves(first)) - len(find(first))
    shapes = [x.shape for x in jax.tree.leaves(result.state.opt_state)]
    assert find(first)[0].shape not in shapes, "a frozen parameter has moments"


def own_update(state, batch, step, optimizer):
    return ody.train.train_step(state, batch, step, optimizer)


LAYERS = {"nnx": "^norm/", "linen": "^BatchNorm_0/"}


@pytest.mark.parametrize("update", [None, own_update], ids=["train_step", "own"])
@pytest.mark.parametrize("hold", [None, False, True])
@pytest.mark.parametrize("name", ["nnx", "linen"])
def test_batch_statistics_move_and_are_said_to_or_are_held(name, hold, update, capfd):
    task = examples.TASKS[name]()._replace(update=update)
    _, first = task.init(ody.train.Keys.of(jax.random.key(0)).init)
    pattern = LAYERS[name]
    result = ody.fit(
        task, lambda rate: ody.freeze(optax.adamw(rate), [pattern], hold_state=hold),
        examples.train_data(), epochs=1, learning_rate=0.05, writers=[],
    )  # fmt: skip
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), first, result.state.model_state)
    moved = [not x for x in jax.tree.leaves(same)]
    assert len(moved) == 2
    assert all(moved) if not hold else not any(moved)
    said = capfd.readouterr().err
    path = {"nnx": "norm/mean, norm/var", "linen": "batch_stats/BatchNorm_0/mean"}[name]
    assert ("hold_state=True) holds it" in said and path in said) == (hold is None)


def test_the_state_of_a_part_and_of_what_is_untrained_is_found():
    stats = {"norm": {"mean": jnp.zeros(2)}, "g": {"norm": {"mean": jnp.zeros(2)}}}
    state_of = ody.transforms.state_of_frozen
    made = ody.freeze(optax.sgd(0.1), ["^norm/"], hold_state=True)
    params = {"norm": {"w": jnp.ones(2)}, "g": {"w": jnp.ones(2), "norm": {"w": jnp.ones(2)}}}
    assert state_of(made.init(params), params, stats) == {"norm/mean": True}
    part = ody.train.make_optimizer({"g": made, "norm": optax.sgd(0.1)})
    assert state_of(part.init(params), params, stats) == {"g/norm/mean": True}


PARAMS = {"encoder": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}}


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ("encoder", "must be a sequence of patterns"),
        ([], "must be a sequence of patterns"),
        (["(encoder"], "is no regular expression"),
        ([3], "3 is no regular expression"),
        (["decoder"], "'decoder' is found in no parameter; there are: encoder/w, head/w"),
        (["w"], "leave no parameter to train"),
    ],
)
def test_bad_patterns_are_refused(frozen, message):
    with pytest.raises(ValueError, match=message):
        ody.freeze(optax.sgd(0.1), frozen).init(PARAMS)
