"""Convolutions in the layout that a CPU computes well within loops: what comes out is the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import odyssey_jax as ody
from odyssey_jax.feed import make_program
from odyssey_jax.train import _convolutions

LAYOUTS = {
    "channels last": ("NHWC", "HWIO", "NHWC"),
    "channels first": ("NCHW", "OIHW", "NCHW"),
    "mixed": ("HCNW", "WIHO", "CWNH"),
}
OPTIONS = {
    "plain": {},
    "strided": {"window_strides": (2, 3)},
    "dilated": {"rhs_dilation": (2, 1), "lhs_dilation": (1, 2)},
    "grouped": {"feature_group_count": 2},
}


def convolution(layout, options, seed=0):
    """A function, its operands, and the gradient of a loss of it."""
    kwargs = {"window_strides": (1, 1), "padding": "SAME", **options}
    if "lhs_dilation" in kwargs:
        kwargs["padding"] = ((1, 1), (2, 0))
    groups = kwargs.get("feature_group_count", 1)
    sizes = {"N": 2, "H": 9, "W": 7, "C": 4}
    kernel = {"H": 3, "W": 2, "I": 4 // groups, "O": 6}
    keys = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(keys[0], [sizes[name] for name in layout[0]])
    k = jax.random.normal(keys[1], [kernel[name] for name in layout[1]])

    def loss(x, k):
        return (lax.conv_general_dilated(x, k, dimension_numbers=layout, **kwargs) ** 2).sum()

    return jax.value_and_grad(loss, (0, 1)), x, k


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_gradients_are_the_same(layout, options):
    function, *operands = convolution(LAYOUTS[layout], OPTIONS[options])
    found = _convolutions.for_loops(function)(*operands)
    expected = function(*operands)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected
    )
    for spec in layouts_of(jax.make_jaxpr(_convolutions.for_loops(function))(*operands).jaxpr):
        assert spec == ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def layouts_of(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            yield tuple(eqn.params["dimension_numbers"])
        for inner in _convolutions._within(eqn.params):
            yield from layouts_of(inner.jaxpr)


def scanned(f):
    return lambda x, k: lax.scan(lambda total, x: (total + f(x, k), None), 0.0, x[None])[0]


WITHIN = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "scan": scanned,
    "cond": lambda f: lambda x, k: lax.cond(x.sum() < 1e9, f, lambda x, k: 0.0, x, k),
    "vmap": lambda f: lambda x, k: jax.vmap(f, (0, None))(jnp.stack([x, 2 * x]), k).sum(),
}


@pytest.mark.parametrize("within", WITHIN)
def test_those_within_other_functions_are_found(within):
    def loss(x, k):
        return (lax.conv(x, k, (1, 1), "SAME") ** 2).sum()

    function = jax.grad(WITHIN[within](loss), (0, 1))
    x, k = jnp.arange(48.0).reshape(1, 3, 4, 4) / 48, jnp.ones((2, 3, 2, 2))
    assert _convolutions.slow_in_loops(function, x, k)
    rewritten = _convolutions.for_loops(function)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), rewritten(x, k), function(x, k)
    )
    assert set(layouts_of(jax.make_jaxpr(rewritten)(x, k).jaxpr)) == {
        ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    }


def test_a_program_has_no_others():
    def loss(kernel, batch):
        return (lax.conv(batch, kernel, (1, 1), "SAME") ** 2).mean()

    task = ody.pure_task(jnp.ones((2, 3, 2, 2)), loss)
    data = ody.ArrayDataset(jnp.ones((8, 3, 4, 4)), 4)
    program = make_program(task, optax.sgd(0.1), data, data, None, capacity=2)
    carry = program.init(jax.random.key(0))
    text = str(jax.make_jaxpr(lambda carry: program.loop.run(carry, program.inputs, 2))(carry))
    assert "conv_general_dilated" in text
    assert "lhs_spec=(0, 1, 2, 3)" not in text
    assert not _convolutions.slow_in_loops(jnp.sin, 1.0)
