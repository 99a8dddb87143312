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
