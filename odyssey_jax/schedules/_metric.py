"""What the rules that follow a metric share: when a value is better, and a scale in its bounds.

A rule is a pair of pure functions, `init() -> state` and `update(state, value) -> state`. Its
hyper-parameters are its fields, and only what it has seen is in the state: so another patience
applies to an old state.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from ._check import require_bounds, require_choice, require_not_negative, require_real
from ._moment import LAST_STEP
from ._numbers import Wide, canonical, is_integer, pair, real

Mode = Literal["min", "max"]
RelativeTo = Literal["magnitude", "value"]
NanPolicy = Literal["bad", "ignore"]


@runtime_checkable
class MetricRule(Protocol):
    """A scale that follows a metric: `reduce_on_plateau`, `greedy`, or one's own.

    Its state is a pytree of arrays with a field `scale`, whose structure, shapes and dtypes
    `init` gives once and for all.
    """

    def init(self) -> Any:
        """Makes the state of a rule that has seen no value."""
        ...

    def update(self, state: Any, value: Any) -> Any:
        """Takes the state past a value of the metric."""
        ...


def choice(default: Any) -> Any:
    """A field of a rule that is a choice, and so static."""
    return dataclasses.field(default=default, metadata={"static": True})


def check_comparison(mode: Any, rtol: Any, atol: Any, relative_to: Any, nan: Any) -> None:
    """Refuse what no comparison can work with."""
    require_choice("mode", mode, ("min", "max"))
    require_not_negative("rtol", rtol)
    require_not_negative("atol", atol)
    require_choice("relative_to", relative_to, ("magnitude", "value"))
    require_choice("nan", nan, ("bad", "ignore"))


def check_first(first: Any, least: Any, most: Any = None) -> None:
    """Refuse a first scale outside its bounds, from which a rule would never move."""
    bounds = {"min_scale": least, "init_scale": first, "max_scale": most}
    given = [(name, x) for name, x in bounds.items() if x is not None]
    if any(isinstance(x, (list, tuple)) or np.ndim(x) > 0 for _, x in given):
        return
    for (low_name, low), (high_name, high) in itertools.pairwise(given):
        require_bounds(low_name, low, high_name, high)


def observed(value: Any) -> Wide:
    """A metric's value with the digits that it has: a Python float has more than float32's."""
    if np.ndim(value) != 0:
        raise ValueError(
            f"value must be a scalar; got shape {np.shape(value)}. A rule for each of several "
            "metrics is jax.vmap(rule.update)(states, values)."
        )
    require_real("value", value)
    with np.errstate(over="ignore"):  # beyond float32 is infinity, which is a value like any other
        high, low = pair(canonical(value))
    return Wide(high, jnp.where(jnp.isfinite(high), low, jnp.zeros_like(high)))


def worst(mode: str) -> Wide:
    """The best value so far where there is none: everything that is not NaN or this beats it."""
    bound = np.inf if mode == "min" else -np.inf
    return Wide(jnp.asarray(bound, jnp.float32), jnp.zeros((), jnp.float32))


def improves(
    value: Wide, best: Wide, *, mode: str, rtol: Any, atol: Any, relative_to: str
) -> jax.Array:
    """Whether a value is better than the best by more than the margin; NaN never is.

    What is compared is the gain, which has all its digits, and not a bound, which would have
    lost those of the margin.
    """
    worse, better = (best, value) if mode == "min" else (value, best)
    gain = (worse.high - better.high) + (worse.low - better.low)
    size = best.high if relative_to == "value" else jnp.abs(best.high)
    margin = real(rtol) * jnp.where(jnp.isinf(size), 0.0, size) + real(atol)
    # From 1.02 to 1.0098 is a gain of 1% and no more, whichever way the two are rounded.
    return gain > margin + 4 * jnp.finfo(jnp.float32).eps * jnp.abs(margin)


def smoothed(average: jax.Array, value: Wide, smoothing: Any) -> tuple[jax.Array, Wide]:
    """The new moving average, and what is to be judged.

    Infinity is an average of nothing. A value that is not finite enters none, and is judged as it
    is.
    """
    keep = real(smoothing)
    fresh = jnp.isinf(average) | (keep == 0)
    old = jnp.where(fresh, 0.0, average)
    finite = jnp.isfinite(value.high)
    mixed = jnp.where(fresh, value.high, old + (1 - keep) * (value.high - old))
    as_it_is = fresh | ~finite
    judged = Wide(jnp.where(as_it_is, value.high, mixed), jnp.where(as_it_is, value.low, 0.0))
    return jnp.where(finite, mixed, average), judged


def lowered(scale: jax.Array, factor: Any, least: Any, eps: Any) -> jax.Array:
    """`scale * factor`, but no less than the least; as it is where that is no more than `eps`."""
    high, low = pair(factor)
    new = jnp.maximum(scale * high + scale * low, scales(least))
    return jnp.where(scale - new > scales(eps), new, scale)


def raised(scale: jax.Array, factor: Any, most: Any, eps: Any) -> jax.Array:
    """`scale / factor`, but no more than the most; as it is where that is no more than `eps`."""
    high, low = pair(factor)
    near = scale / high
    new = jnp.minimum(near - near * (low / high), scales(most))
    return jnp.where(new - scale > scales(eps), new, scale)


def scales(x: Any) -> jax.Array:
    """A scale, or a sequence of them (one for each group of parameters), as a float32 array."""
    several = isinstance(x, tuple) and not isinstance(x, Wide)
    return jnp.stack([real(each) for each in x]) if several else real(x)


def first_scale(*fields: Any) -> jax.Array:
    """The first of some scales, in the shape that all of them have together."""
    arrays = [scales(x) for x in fields]
    return jnp.broadcast_to(arrays[0], jnp.broadcast_shapes(*(a.shape for a in arrays)))


def whole(x: Any) -> jax.Array:
    """A hyper-parameter that counts, as int32."""
    return jnp.asarray(x if is_integer(x) else jnp.floor(real(x)), jnp.int32)


def one_more(count: jax.Array) -> jax.Array:
    """`count + 1`, which never wraps."""
    return jnp.minimum(count, LAST_STEP - 1) + 1


def choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    """`yes` where the condition holds, `no` elsewhere, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def sequence(x: Any) -> Any:
    """A sequence of numbers as a tuple, so that a rule can be hashed; a number as it is."""
    return tuple(x) if isinstance(x, (list, tuple)) else x
