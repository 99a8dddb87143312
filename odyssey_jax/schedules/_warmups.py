"""Warm-ups: a curve up to a peak, exact at its end and held from there."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import builds
from odyssey_jax.schedules._curves import (
    cosine,
    geometric,
    line,
    phase_power,
    root,
)
from odyssey_jax.schedules._fields import (
    require_finite,
    require_length,
    require_positive,
    require_progression,
)
from odyssey_jax.schedules._numbers import canonical_exponent
from odyssey_jax.schedules._steps import Interval, StepCount, interval, length


@node
class Warmup(Schedule):
    """The numbers of a warm-up; the curve is that of a decay, in its own file."""

    peak_value: Any
    warmup_steps: Any
    init_value: Any

    def where(self, now: StepCount) -> Interval:
        """Where `now` is within the warm-up."""
        return interval(now, length(self.warmup_steps))


def require_warmup(peak_value: Any, warmup_steps: Any, init_value: Any) -> Any:
    """The numbers of `Warmup`; gives the number of steps."""
    require_finite("peak_value", peak_value)
    require_finite("init_value", init_value)
    return require_length("warmup_steps", warmup_steps)


@node
class LinearWarmup(Warmup):
    """A straight line; see `linear_warmup`."""

    def at(self, now: StepCount) -> jax.Array:
        """The formula."""
        return line(self.where(now).phase(), self.init_value, self.peak_value)


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
    warmup_steps = require_warmup(peak_value, warmup_steps, init_value)
    return LinearWarmup(peak_value, warmup_steps, init_value)


@node
class CosineWarmup(Warmup):
    """Half a cosine; see `cosine_warmup`."""

    def at(self, now: StepCount) -> jax.Array:
        """The formula."""
        return cosine(self.where(now), self.init_value, self.peak_value)


@builds(CosineWarmup)
def cosine_warmup(peak_value: Any, warmup_steps: Any, init_value: Any = 0.0) -> CosineWarmup:
    r"""Rise to `peak_value` along half a cosine, and stay there.

    $$f(t) = v_0 + (v - v_0) \, \tfrac{1}{2}\left(1 - \cos \frac{\pi t}{W}\right),
      \qquad 0 \le t \le W$$

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
        `transformers.get_wsd_schedule` with `warmup_type="cosine"`.

    Example:
        >>> from odyssey_jax.schedules import cosine_warmup
        >>> schedule = cosine_warmup(0.2, warmup_steps=10)
        >>> [round(float(schedule(t)), 4) for t in (0, 5, 10, 11)]
        [0.0, 0.1, 0.2, 0.2]
    """
    warmup_steps = require_warmup(peak_value, warmup_steps, init_value)
    return CosineWarmup(peak_value, warmup_steps, init_value)


@node
class SqrtWarmup(Warmup):
    """One less a square root; see `sqrt_warmup`."""

    def at(self, now: StepCount) -> jax.Array:
        """The formula."""
        left = self.where(now).phase().backwards
        return line(root(left), self.peak_value, self.init_value)


@builds(SqrtWarmup)
def sqrt_warmup(peak_value: Any, warmup_steps: Any, init_value: Any = 0.0) -> SqrtWarmup:
    r"""Rise to `peak_value` as one less the square root of what is left, and stay there.

    $$f(t) = v_0 + (v - v_0) \left(1 - \sqrt{1 - t / W}\right), \qquad 0 \le t \le W$$

    It is steepest at its end; `polynomial_warmup` with power 1/2 is steepest at its start. $W$
    is the length of the warm-up alone. The peak is reached at $t = W$ to the bit: the first step
    after the warm-up.

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
        `transformers.get_wsd_schedule` with `warmup_type="1-sqrt"`.

    Example:
        >>> from odyssey_jax.schedules import sqrt_warmup
        >>> schedule = sqrt_warmup(0.2, warmup_steps=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 75, 100, 101)]
        [0.0, 0.1, 0.2, 0.2]
    """
    warmup_steps = require_warmup(peak_value, warmup_steps, init_value)
    return SqrtWarmup(peak_value, warmup_steps, init_value)


@node
class ExponentialWarmup(Warmup):
    """A geometric progression; see `exponential_warmup`."""

    def at(self, now: StepCount) -> jax.Array:
        """The formula."""
        return geometric(self.where(now), self.init_value, self.peak_value)


@builds(ExponentialWarmup)
def exponential_warmup(peak_value: Any, warmup_steps: Any, init_value: Any) -> ExponentialWarmup:
    r"""Rise from `init_value` to `peak_value` by the same factor every step, and stay there.

    $$f(t) = v_0 \left(\frac{v}{v_0}\right)^{t / W}, \qquad 0 \le t \le W$$

    $W$ is the length of the warm-up alone. The peak is reached at $t = W$ to the bit: the first
    step after the warm-up.

    Args:
        peak_value: The value $v$ at the end; scalar, in [1e-36, 1e36].
        warmup_steps: The length $W$ in steps; scalar, in [0, 2**31 - 1]. If 0, the peak is in
            force at once.
        init_value: The value $v_0$ at step 0; scalar, in [1e-36, 1e36], as their quotient is:
            from 0 no factor leads away.

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
    warmup_steps = require_warmup(peak_value, warmup_steps, init_value)
    require_progression("init_value", init_value, "peak_value", peak_value)
    return ExponentialWarmup(peak_value, warmup_steps, init_value)


@node
class PolynomialWarmup(Warmup):
    """A power of the step; see `polynomial_warmup`."""

    power: Any = dataclasses.field(metadata={"canonical": canonical_exponent})

    def at(self, now: StepCount) -> jax.Array:
        """The formula."""
        height = phase_power(self.where(now), self.power)
        return line(height, self.init_value, self.peak_value)


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
    warmup_steps = require_warmup(peak_value, warmup_steps, init_value)
    require_positive("power", power)
    return PolynomialWarmup(peak_value, warmup_steps, init_value, power)
