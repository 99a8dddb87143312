"""Scales in Optax's chains: by a metric, by a callback, by layer; and what is in force."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import odyssey_jax as ody
from odyssey_jax.transforms import has_scale, with_scale

RULE = ody.reduce_on_plateau(0.5, 1)


def run(optimizer, values, params=None):
    params = jnp.ones(3) if params is None else params
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for value in values:
        updates, state = update(params, state, params, value=jnp.float32(value))
    return updates, state


def test_by_a_metric_as_optax():
    ours = optax.chain(optax.adam(0.1), ody.transforms.scale_by_metric(RULE))
    theirs = optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau(0.5, patience=2))
    values = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    want, state = run(theirs, values)
    got, mine = run(ours, values)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for opt_state in (state, mine):
        in_force = ody.transforms.hyperparams_in_force(opt_state, jnp.float32(0.1))
        np.testing.assert_allclose(in_force["learning_rate"], 0.1 * 0.25, rtol=1e-6)


def test_vmap_of_a_chain():
    optimizer = optax.chain(optax.sgd(1.0), ody.transforms.scale_by_metric(RULE))

    def final(values):
        def step(state, value):
            updates, state = optimizer.update(jnp.ones(()), state, value=value)
            return state, updates

        return jax.lax.scan(step, optimizer.init(jnp.ones(())), values)[1]

    values = jnp.array([[3.0, 3.0, 3.0, 3.0], [4.0, 3.0, 2.0, 1.0]])
    got = jax.jit(jax.vmap(final))(values)
    np.testing.assert_array_equal(got, [[-1, -1, -0.5, -0.5], [-1, -1, -1, -1]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_updates_keep_their_dtype(dtype):
    params = jnp.ones(3, dtype)
    layers = ody.transforms.scale_by_layer(0.5, ["w"])
    for transform in (ody.transforms.scale_by_metric(RULE), ody.scale_by_callback(), layers):
        tree = {"w": params}
        state = transform.init(tree)
        updates, new = optax.with_extra_args_support(transform).update(tree, state, value=1.0)
        assert updates["w"].dtype == dtype
        assert jax.tree.structure(new) == jax.tree.structure(state)
        assert [x.dtype for x in jax.tree.leaves(new)] == [x.dtype for x in jax.tree.leaves(state)]


def test_a_callback_sets_every_scale_wherever_it_is():
    optimizer = optax.MultiSteps(
        optax.partition(
            {"a": optax.chain(optax.sgd(1.0), ody.scale_by_callback()), "b": optax.sgd(1.0)},
            {"x": "a", "y": "b"},
        ),
        1,
    )
    params = {"x": jnp.ones(()), "y": jnp.ones(())}
    state = optimizer.init(params)
    assert has_scale(state)
    assert not has_scale(optax.sgd(1.0).init(params))
    updates, _ = optimizer.update(params, with_scale(state, jnp.float32(0.25)), params)
    assert jax.tree.map(float, updates) == {"x": -0.25, "y": -1.0}


class NnxBlocks(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Linear(2, 2, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(11)])
        self.head = nnx.Linear(2, 2, rngs=rngs)


class LinenBlocks(linen.Module):
    def setup(self):
        self.embed = linen.Dense(2)
        self.layers = [linen.Dense(2) for _ in range(11)]
        self.head = linen.Dense(2)

    def __call__(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


LAYERS = ["embed", r"layers[/_](\d+)", "head"]


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_layers_of_flax(kind):
    if kind == "nnx":
        params = nnx.to_pure_dict(nnx.state(NnxBlocks(nnx.Rngs(0)), nnx.Param))
        middle = lambda tree, i: tree["layers"][i]
    else:
        params = LinenBlocks().init(jax.random.key(0), jnp.ones((1, 2)))["params"]
        middle = lambda tree, i: tree[f"layers_{i}"]
    ones = jax.tree.map(jnp.ones_like, params)
    transform = ody.transforms.scale_by_layer(0.5, LAYERS)
    updates, state = transform.update(ones, transform.init(params))
    np.testing.assert_array_equal(updates["head"]["kernel"], np.ones((2, 2)))
    for i in range(11):  # layer 10 is above layer 9, whatever the alphabet says
        np.testing.assert_array_equal(middle(updates, i)["bias"], np.full(2, 0.5 ** (11 - i)))
    np.testing.assert_array_equal(updates["embed"]["bias"], np.full(2, 0.5**12))
    assert len(state.factors) == 13
    labels = ody.transforms.layer_labels(LAYERS)(params)
    assert labels["embed"] == {"kernel": "embed", "bias": "embed"}
    assert len(set(jax.tree.leaves(labels))) == 13


def test_what_one_pattern_finds_for_one_number_is_one_layer():
    names = ["Dense_0", "LayerNorm_0", "Dense_1", "LayerNorm_1", "head", "norm"]
    params = {name: jnp.ones(()) for name in names}
    by_layer = ody.transforms.scale_by_layer(0.5, [r"(?:Dense|LayerNorm)_(\d+)", "head|norm"])
    updates, _ = by_layer.update(params, by_layer.init(params))
    assert [float(updates[name]) for name in names] == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


def test_labels_are_optaxs():
    """A rate of its own for each layer."""
    params = {"Dense_0": jnp.ones(()), "Dense_1": jnp.ones(())}
    rates = {"Dense_0": 0.1, "Dense_1": ody.constant(0.2)}
    groups = {label: optax.sgd(rate) for label, rate in rates.items()}
    optimizer = optax.partition(groups, ody.transforms.layer_labels([r"Dense_(\d+)"]))
    updates, _ = optimizer.update(params, optimizer.init(params))
    np.testing.assert_allclose([updates["Dense_0"], updates["Dense_1"]], [-0.1, -0.2], rtol=1e-6)


def injected(rate, **more):
    return optax.inject_hyperparams(optax.sgd)(learning_rate=rate, **more)


def in_force(optimizer, params, rate=None):
    found = ody.transforms.hyperparams_in_force(optimizer.init(params), rate)
    return {name: round(float(x), 6) for name, x in found.items()}


def test_what_is_in_force():
    params = {"a": jnp.ones(()), "learning_rate": jnp.ones(())}
    labels = {"a": "body", "learning_rate": "head"}
    assert in_force(optax.adam(0.1), params) == {}
    assert in_force(injected(0.1), params) == {"learning_rate": 0.1}
    assert in_force(injected(0.1), params, jnp.float32(0.1)) == {"learning_rate": 0.1}
    two = optax.partition({"body": injected(0.1), "head": injected(0.2)}, labels)
    assert in_force(two, params) == {"learning_rate/body": 0.1, "learning_rate/head": 0.2}
    assert in_force(optax.chain(injected(0.1), injected(0.2)), params) == {
        "learning_rate/0": 0.1,
        "learning_rate/1": 0.2,
    }
    both = injected(0.1, momentum=ody.linear_warmup(0.5, 10, 0.3))
    assert in_force(both, params) == {"learning_rate": 0.1, "momentum": 0.3}
    layered = optax.chain(injected(0.1), ody.transforms.scale_by_layer(0.5, ["learning", "a"]))
    assert in_force(layered, params) == {
        "learning_rate": 0.1,
        "learning_rate/learning": 0.05,
        "learning_rate/a": 0.1,
    }


def test_a_scale_within_a_group_is_of_that_group_alone():
    params, labels = {"x": jnp.ones(()), "y": jnp.ones(())}, {"x": "a", "y": "b"}
    grouped = {"a": optax.chain(injected(0.1), ody.scale_by_callback()), "b": injected(0.2)}
    optimizer = optax.chain(optax.partition(grouped, labels), ody.transforms.scale_by_metric(RULE))
    state = with_scale(optimizer.init(params), jnp.float32(0.5))
    found = ody.transforms.hyperparams_in_force(state)
    np.testing.assert_allclose(found["learning_rate/a"], 0.05, rtol=1e-6)
    np.testing.assert_allclose(found["learning_rate/b"], 0.2, rtol=1e-6)


def updated_without_a_value():
    optimizer = ody.transforms.scale_by_metric(RULE)
    optimizer.update(jnp.ones(3), optimizer.init(jnp.ones(3)))


BAD = [
    (updated_without_a_value, r"given no value: pass it to update.*value=loss"),
    (
        lambda: ody.transforms.scale_by_metric(
            ody.schedules.greedy([0.1, 0.2], 1.0, init_scale=[1.0, 0.5])
        ),
        r"scale must be a scalar; got shape \(2,\)\. .*optax\.partition",
    ),
    (
        lambda: ody.transforms.scale_by_layer(0.0, ["a"]),
        r"decay must be in the range \(0, 1\], got 0.0",
    ),
    (
        lambda: ody.transforms.scale_by_layer(0.5, "head"),
        r"layers must be a sequence of patterns.*'head'",
    ),
    (lambda: ody.transforms.layer_labels(["("]), r"'\(' is no regular expression"),
    (lambda: ody.transforms.layer_labels([3]), "3 is no regular expression"),
    (lambda: ody.transforms.layer_labels([r"(\d)(\d)"]), r"has 2 groups, and may have one"),
    (
        lambda: ody.transforms.layer_labels([r"(\w+)"])({"head": 0.0}),
        r"must be the layer's number, and in.*'head'",
    ),
    (
        lambda: ody.transforms.layer_labels(["head"])({"head": 0.0, "tail": {"bias": 0.0}}),
        r"the parameter 'tail/bias' is in none of \['head'\]: add a pattern",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("rule", [0.5, ody.reduce_on_plateau, type(RULE), ody.constant(1.0)])
def test_what_is_no_rule(rule):
    with pytest.raises(TypeError, match=r"rule must have init\(\) and update\(state, value\)"):
        ody.transforms.scale_by_metric(rule)
