"""What a function hands on as it was, through JAX's transformations, and what it computes."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax import lax

import odyssey_jax as ody
from odyssey_jax.train._passed_on import origins, passed_on
from tests import examples

X, ROWS = jnp.ones(3), jnp.ones((4, 3))


def scanned(change=lambda x: x):
    def body(carry, row):
        return change(carry), row

    return lambda x, rows: lax.scan(body, x, rows)


def looped(body):
    return lambda x, rows: lax.fori_loop(0, 3, lambda _, pair: body(*pair), (x, rows))


def branched(other):
    return lambda x, rows: lax.cond(x.sum() > 0, lambda *a: a, other, x, rows)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, rows: (x, rows), [0, 1]),
        (lambda x, rows: (rows, x), [1, 0]),
        (lambda x, rows: (x * 1, jnp.ones((4, 3))), [None, None]),
        (jax.jit(lambda x, rows: (x, rows + 1)), [0, None]),
        (jax.checkpoint(lambda x, rows: (jnp.sin(x), rows)), [None, 1]),
        (jax.checkpoint(jax.jit(lambda x, rows: (rows, x))), [1, 0]),
        (scanned(), [0, 1]),
        (scanned(jnp.sin), [None, 1]),
        (lambda x, rows: lax.scan(lambda c, r: (c, 2 * r), x, rows), [0, None]),
        (looped(lambda x, rows: (x, rows + x)), [0, None]),
        (looped(lambda x, rows: (x, rows)), [0, 1]),
        (branched(lambda x, rows: (x, 2 * rows)), [0, None]),
        (branched(lambda x, rows: (x, rows)), [0, 1]),
        (lambda x, rows: jax.vmap(lambda r: (x, r), out_axes=(None, 0))(rows), [0, 1]),
    ],
)
def test_arguments_are_followed_through(function, expected):
    assert passed_on(function, X, ROWS) == expected


@pytest.mark.parametrize(
    ("function", "alone", "as_one"),
    [
        (branched(lambda x, y: (x, x)), [0, None], ["a", "a"]),
        (branched(lambda x, y: (y, x)), [None, None], ["a", "a"]),
        (looped(lambda x, y: (y, x)), [None, None], ["a", "a"]),
        (looped(lambda x, y: (x, x)), [0, None], ["a", "a"]),
        (looped(lambda x, y: (x, x + y)), [0, None], ["a", None]),
        (looped(lambda x, y: (y, x + y)), [None, None], [None, None]),
        (lambda x, y: lax.scan(lambda c, row: (y, c), x, jnp.ones(3)), [None] * 2, ["a", None]),
    ],
)
def test_arguments_of_one_value_have_one_name(function, alone, as_one):
    jaxpr = jax.make_jaxpr(function)(X, X)
    assert (origins(jaxpr), origins(jaxpr, ["a", "a"])) == (alone, as_one)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.norm(self.linear(x)))


class Stacked(nnx.Module):
    """Blocks as Flax's guides stack them: made by `nnx.vmap`, run by `nnx.scan` and `nnx.remat`."""

    def __init__(self, rngs, shrinks=False):
        self.blocks = nnx.vmap(Block)(nnx.Rngs(jax.random.split(rngs.params(), 3)))
        self.head = nnx.Linear(4, examples.CLASSES, rngs=rngs)
        self.shrinks = shrinks

    def __call__(self, x):
        step = nnx.remat(lambda block, x: block(x))
        run = nnx.scan(lambda x, block: step(block, x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        x = run(x, self.blocks)
        if self.shrinks:
            self.head.bias[...] = 0.9 * self.head.bias[...]
        return self.head(x)


def test_blocks_that_go_through_transformations_of_nnx_are_trained():
    fit = lambda **how: ody.fit(
        ody.nnx_task(lambda rngs: Stacked(rngs, **how), examples.nnx_loss), optax.sgd,
        examples.train_data(), epochs=3, learning_rate=0.1, writers=[],
    )  # fmt: skip
    losses = fit().history["train/loss"]
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match=r"assigns to the parameters \['head/bias'\], which"):
        fit(shrinks=True)
