"""Decay as the inverse square root of the time."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ._base import Schedule, builds
from ._check import require_finite, require_unit
from ._moment import Moment
from ._node import node
from ._numbers import real


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class InverseSqrt(Schedule):
    """The inverse of a square root; see `inverse_sqrt`."""

    init_value: Any
    timescale: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return real(self.init_value) / jnp.sqrt(1 + now.real() / real(self.timescale))


@builds(InverseSqrt)
def inverse_sqrt(init_value: Any, timescale: Any) -> InverseSqrt:
    r"""Decay as the inverse square root of the time.

    $$f(t) = \frac{v_0}{\sqrt{1 + t / s}}$$

    There is no end: the curve goes on towards 0. Steps count from the start of this schedule:
    joined to a warm-up of $s$ steps, it is $v_0 \sqrt{s / t}$ with $t$ counted from the start of
    that.

    Args:
        init_value: The value $v_0$ at step 0; scalar, finite.
        timescale: The steps $s$ after which the value is $v_0 / \sqrt 2$; scalar, in
            [1, 2**31 - 1].

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Vaswani et al., "Attention Is All You Need" (2017), equation 3;
        `transformers.get_inverse_sqrt_schedule`.

    Example:
        >>> from odyssey_jax.schedules import inverse_sqrt
        >>> schedule = inverse_sqrt(0.1, timescale=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 300, 9_900)]
        [0.1, 0.05, 0.01]
    """
    require_finite("init_value", init_value)
    return InverseSqrt(init_value, require_unit("timescale", timescale))
