"""Ways up: linear, polynomial and exponential, each exactly at its peak at the end."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ._base import Schedule, builds
from ._check import require_finite, require_length, require_positive
from ._moment import Moment, Phase, length, phase, select, turns
from ._node import node
from ._numbers import between, pair, real, whole_pair
from ._power import power, real_terms


def linear(where: Phase, start: Any, end: Any) -> jax.Array:
    """`start + (end - start) * done`."""
    return between(start, end, where.done, where.left)


def polynomial(now: Moment, steps: Any, start: Any, end: Any, exponent: Any) -> jax.Array:
    """`start + (end - start) * (t / steps) ** exponent`."""
    total = length(steps)
    where = phase(now, total)
    # Outside the open interval the power is known, and its derivative may not be finite.
    inside = (where.done > 0) & (where.left > 0)
    top = [jnp.where(inside, x, y) for x, y in zip(_pair(now), (1.0, 0.0), strict=True)]
    bottom = [jnp.where(inside, x, y) for x, y in zip(_pair(total), (1.0, 0.0), strict=True)]
    high, low = pair(exponent)
    rise = power((top[0], top[1]), [*real_terms(high), low], (bottom[0], bottom[1]))
    rise = jnp.where(inside, rise, jnp.where(where.left > 0, 0.0, 1.0))
    # 1 - rise has few digits near the end; there the distance to the end has all of them.
    near = where.left < 0.9
    left = jnp.where(near, where.left, 0.5)
    fall = jnp.where(near, -jnp.expm1((high + low) * jnp.log1p(-left)), 1 - rise)
    return between(start, end, rise, fall)


def geometric(now: Moment, steps: Any, start: Any, end: Any) -> jax.Array:
    """`start * (end / start) ** (t / steps)`, measured from the nearer end."""
    total = length(steps)
    late = phase(now, total).late
    distance = turns(select(late, total.minus(now), now), steps)
    top = _where(late, pair(start), pair(end))
    bottom = _where(late, pair(end), pair(start))
    factor = power(top, [distance.near, distance.rest], bottom)
    return jnp.where(late, real(end), real(start)) * factor


def _pair(x: Moment) -> tuple[jax.Array, jax.Array]:
    return whole_pair(x.whole, 0.0 if x.part is None else x.part)


def _where(condition: jax.Array, a: Any, b: Any) -> tuple[jax.Array, jax.Array]:
    return jnp.where(condition, a[0], b[0]), jnp.where(condition, a[1], b[1])


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LinearWarmup(Schedule):
    """A straight line; see `linear_warmup`."""

    peak_value: Any
    warmup_steps: Any
    init_value: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        where = phase(now, length(self.warmup_steps))
        return linear(where, self.init_value, self.peak_value)


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PolynomialWarmup(Schedule):
    """A power of the step; see `polynomial_warmup`."""

    peak_value: Any
    warmup_steps: Any
    power: Any
    init_value: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return polynomial(now, self.warmup_steps, self.init_value, self.peak_value, self.power)


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExponentialWarmup(Schedule):
    """A geometric progression; see `exponential_warmup`."""

    peak_value: Any
    warmup_steps: Any
    init_value: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return geometric(now, self.warmup_steps, self.init_value, self.peak_value)


@builds(LinearWarmup)
def linear_warmup(peak_value: Any, warmup_steps: Any, init_value: Any = 0.0) -> LinearWarmup:
    r"""Rise to `peak_value` along a straight line, and stay there.

    $$f(t) = v_0 + (v - v_0) \frac{t}{W}, \qquad 0 \le t \le W$$

    $W$ is the length of the warm-up alone. The peak is reached at $t = W$ to the bit: the first
    step after the warm-up.

    Args:
        peak_value: The value $v$ at the end; scalar, finite.
        warmup_steps: The length $W$ in steps; scalar, in [0, 2**31 - 1]. If 0, the peak is in
            force at once.
        init_value: The value $v_0$ at step 0; scalar, finite.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.2.

    Example:
        >>> from odyssey_jax.schedules import linear_warmup
        >>> schedule = linear_warmup(0.2, warmup_steps=10)
        >>> print(schedule(0), schedule(5), schedule(10), schedule(11))
        0.0 0.1 0.2 0.2
    """
    require_finite("peak_value", peak_value)
    warmup_steps = require_length("warmup_steps", warmup_steps)
    require_finite("init_value", init_value)
    return LinearWarmup(peak_value, warmup_steps, init_value)


@builds(PolynomialWarmup)
def polynomial_warmup(
    peak_value: Any, warmup_steps: Any, power: Any = 2.0, init_value: Any = 0.0
) -> PolynomialWarmup:
    r"""Rise to `peak_value` along a power of the step, and stay there.

    $$f(t) = v_0 + (v - v_0) \left(\frac{t}{W}\right)^p, \qquad 0 \le t \le W$$

    Power 2 is what some recipes call exponential; `exponential_warmup` is the exponential one.
    $W$ is the length of the warm-up alone. The peak is reached at $t = W$ to the bit: the first
    step after the warm-up.

    Args:
        peak_value: The value $v$ at the end; scalar, finite.
        warmup_steps: The length $W$ in steps; scalar, in [0, 2**31 - 1]. If 0, the peak is in
            force at once.
        power: The exponent $p$; scalar, above 0.
        init_value: The value $v_0$ at step 0; scalar, finite.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        The rise that mirrors `optax.polynomial_schedule`.

    Example:
        >>> from odyssey_jax.schedules import polynomial_warmup
        >>> schedule = polynomial_warmup(0.2, warmup_steps=10)
        >>> print(schedule(0), schedule(5), schedule(10), schedule(11))
        0.0 0.05 0.2 0.2
    """
    require_finite("peak_value", peak_value)
    warmup_steps = require_length("warmup_steps", warmup_steps)
    require_positive("power", power)
    require_finite("init_value", init_value)
    return PolynomialWarmup(peak_value, warmup_steps, power, init_value)


@builds(ExponentialWarmup)
def exponential_warmup(peak_value: Any, warmup_steps: Any, init_value: Any) -> ExponentialWarmup:
    r"""Rise from `init_value` to `peak_value` by the same factor every step, and stay there.

    $$f(t) = v_0 \left(\frac{v}{v_0}\right)^{t / W}, \qquad 0 \le t \le W$$

    $W$ is the length of the warm-up alone. The peak is reached at $t = W$ to the bit: the first
    step after the warm-up.

    Args:
        peak_value: The value $v$ at the end; scalar, above 0.
        warmup_steps: The length $W$ in steps; scalar, in [0, 2**31 - 1]. If 0, the peak is in
            force at once.
        init_value: The value $v_0$ at step 0; scalar, above 0: from 0 no factor leads away.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        The geometric progression; `optax.exponential_decay` with a rate of $v / v_0$.

    Example:
        >>> from odyssey_jax.schedules import exponential_warmup
        >>> schedule = exponential_warmup(0.4, warmup_steps=10, init_value=0.1)
        >>> print(schedule(0), schedule(5), schedule(10), schedule(11))
        0.1 0.2 0.4 0.4
    """
    require_positive("peak_value", peak_value)
    warmup_steps = require_length("warmup_steps", warmup_steps)
    require_positive("init_value", init_value)
    return ExponentialWarmup(peak_value, warmup_steps, init_value)
