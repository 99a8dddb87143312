"""Hyper-parameters as the formulas see them: int32, float32, or two float32 for one float64."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._pytree import node


class Wide(NamedTuple):
    """A number with about 48 bits: `high + low`, both float32.

    A Python float has 53 bits, and a decay rate needs more than float32's 24: 0.9 rounded to
    float32 and raised to the 100th power is off by 2.6e-6.
    """

    high: Any
    low: Any


@node
class Halves:
    """An exponent that is known while tracing: so many times 1/2. The power is then a product."""

    count: int = dataclasses.field(metadata={"static": True})


def is_integer(x: Any) -> bool:
    """Return whether a hyper-parameter, as `canonical` left it, is an integer."""
    return not isinstance(x, Wide) and jnp.issubdtype(jnp.result_type(x), jnp.integer)


def is_number(x: Any) -> bool:
    """Return whether it is a real number, or an array; not a truth value."""
    kinds = (numbers.Real, np.ndarray, np.generic, jax.Array)
    return isinstance(x, kinds) and not isinstance(x, (bool, np.bool_))


def canonical(x: Any) -> Any:
    """Return one leaf, whatever its type and the x64 flag: int32, float32 or `Wide`.

    Numbers known on the host stay NumPy: a formula that joins 512 of them then compiles a
    table, not 512 operands.
    """
    if isinstance(x, (Wide, Halves)):
        return x
    if isinstance(x, float):  # the usual case, and the quick one
        near = np.float32(x)
        return Wide(near, np.float32(x - float(near)))
    if not isinstance(x, jax.Array):
        x = np.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.integer):
        small = jnp.iinfo(x.dtype).bits < 32 or x.dtype == np.int32
        if small or isinstance(x, jax.Array):
            return x.astype(np.int32)
        if np.all(np.abs(x.astype(np.float64)) <= np.iinfo(np.int32).max):
            return x.astype(np.int32)
        x = x.astype(np.float64)
    if x.dtype != np.float64:
        return x.astype(np.float32)
    high = x.astype(np.float32)
    return Wide(high, (x - high.astype(np.float64)).astype(np.float32))


def canonical_exponent(x: Any) -> Any:
    """Return an exponent as `canonical` has it, but `Halves` if it is known, and 2 at most."""
    if x is None:
        return None
    x = canonical(x)
    leaves = jax.tree.leaves(x)
    if any(isinstance(leaf, jax.Array) or np.ndim(leaf) > 0 for leaf in leaves):
        return x
    count = 2 * sum(map(float, leaves))
    return Halves(int(count)) if count in range(1, 5) else x


def real(x: Any) -> jax.Array:
    """Return a hyper-parameter as the nearest float32.

    For the formula of a schedule of your own (see `builds`), in which a Python float is two
    float32 and an int is an int32.

    Args:
        x: The hyper-parameter, as the formula has it.

    Returns:
        float32.
    """
    return jnp.asarray(x.high if isinstance(x, Wide) else x, jnp.float32)


def pair(x: Any) -> tuple[jax.Array, jax.Array]:
    """Return a hyper-parameter as `high + low`."""
    if isinstance(x, Wide):
        return jnp.asarray(x.high, jnp.float32), jnp.asarray(x.low, jnp.float32)
    return whole_pair(jnp.asarray(x, jnp.int32)) if is_integer(x) else (real(x), jnp.float32(0))


def whole_pair(x: jax.Array, part: Any = 0.0) -> tuple[jax.Array, jax.Array]:
    """Return `x + part` for an int32 and a fraction in [0, 1), as `high + low`."""
    big = (x & ~127).astype(jnp.float32)  # 24 bits at most, so exact
    small = (x & 127).astype(jnp.float32) + part
    high = big + small
    return high, small - (high - big)


def exact(x: Wide) -> Any:
    """Return `high + low` in float64, for what is done on the host."""
    return np.asarray(x.high, np.float64) + np.asarray(x.low, np.float64)


def between(start: Any, end: Any, rise: jax.Array, fall: jax.Array) -> jax.Array:
    """Return the point `rise` of the way from `start` to `end`, with `fall = 1 - rise`.

    Measured from the nearer end: so both ends are exact to the bit, a curve between equal ends
    is constant, and the tail towards 0 keeps all its digits if `fall` has them.
    """
    start, end = real(start), real(end)
    return jnp.where(rise <= fall, start + (end - start) * rise, end - (end - start) * fall)


def choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    """Return `yes` where the condition holds and `no` elsewhere, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
