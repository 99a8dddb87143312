"""Warm-ups: a curve up to a peak, exact at its end and held from there."""

from __future__ import annotations

from typing import Any

import jax
from jax.typing import ArrayLike

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import builds
from odyssey_jax.schedules._curves import cosine, geometric, line, phase_power, root
from odyssey_jax.schedules._fields import (
    FINITE,
    POSITIVE,
    STEPS,
    checked,
    field,
    refuse_optax_order,
    require_progression,
)
from odyssey_jax.schedules._numbers import canonical_exponent
from odyssey_jax.schedules._parts import Part, known_steps
from odyssey_jax.schedules._steps import Interval, StepCount
from odyssey_jax.schedules._units import Steps


@node
class Warmup(Schedule):
    """A curve over a number of steps, up to a peak; a kind of warm-up is a `curve`."""

    peak_value: Any = field(FINITE)
    warmup_steps: Any = field(STEPS)
    init_value: Any = field(FINITE)

    def check(self) -> None:
        """Raise ValueError for the order of Optax, which has the first value in front."""
        refuse_optax_order(
            f"{self.name}(peak_value, warmup_steps, init_value)",
            "warmup_constant_schedule(init_value, peak_value, warmup_steps)",
            "warmup_steps",
            self.warmup_steps,
            "init_value",
            self.init_value,
        )

    def curve(self, where: Interval) -> jax.Array:
        """Return the value at a place within the warm-up."""
        raise NotImplementedError(f"{type(self).__name__} has no formula: define `curve`.")

    def at(self, now: StepCount) -> jax.Array:
        """Return the value on the curve, which holds its end."""
        return self.curve(now.interval(self.warmup_steps))

    def parts(self) -> list[Part]:
        """Return one part, which comes to rest at the peak."""
        return [Part(self.name, end=known_steps(self.warmup_steps))]


@node
class LinearWarmup(Warmup):
    """A straight line; see `linear_warmup`."""

    def curve(self, where: Interval) -> jax.Array:
        """Return the point on the line."""
        return line(where.phase(), self.init_value, self.peak_value)


@builds(LinearWarmup)
def linear_warmup(
    peak_value: ArrayLike, warmup_steps: Steps, init_value: ArrayLike = 0.0
) -> LinearWarmup:
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
    return checked(LinearWarmup, locals())


@node
class CosineWarmup(Warmup):
    """Half a cosine; see `cosine_warmup`."""

    def curve(self, where: Interval) -> jax.Array:
        """Return the half cosine."""
        return cosine(where, self.init_value, self.peak_value)


@builds(CosineWarmup)
def cosine_warmup(
    peak_value: ArrayLike, warmup_steps: Steps, init_value: ArrayLike = 0.0
) -> CosineWarmup:
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
    return checked(CosineWarmup, locals())


@node
class SqrtWarmup(Warmup):
    """One less a square root; see `sqrt_warmup`."""

    def curve(self, where: Interval) -> jax.Array:
        """Return the square root of what is left."""
        return line(root(where.phase().backwards), self.peak_value, self.init_value)


@builds(SqrtWarmup)
def sqrt_warmup(
    peak_value: ArrayLike, warmup_steps: Steps, init_value: ArrayLike = 0.0
) -> SqrtWarmup:
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
    return checked(SqrtWarmup, locals())


@node
class ExponentialWarmup(Warmup):
    """A geometric progression; see `exponential_warmup`."""

    def curve(self, where: Interval) -> jax.Array:
        """Return the term of the progression."""
        return geometric(where, self.init_value, self.peak_value)

    def check(self) -> None:
        """Raise ValueError unless float32 holds the progression."""
        super().check()
        require_progression("init_value", self.init_value, "peak_value", self.peak_value)


@builds(ExponentialWarmup)
def exponential_warmup(
    peak_value: ArrayLike, warmup_steps: Steps, init_value: ArrayLike
) -> ExponentialWarmup:
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
    return checked(ExponentialWarmup, locals())


@node
class PolynomialWarmup(Warmup):
    """A power of the step; see `polynomial_warmup`."""

    power: Any = field(POSITIVE, canonical=canonical_exponent)

    def curve(self, where: Interval) -> jax.Array:
        """Return the power of the step."""
        return line(phase_power(where, self.power), self.init_value, self.peak_value)


@builds(PolynomialWarmup)
def polynomial_warmup(
    peak_value: ArrayLike, warmup_steps: Steps, power: ArrayLike = 2.0, init_value: ArrayLike = 0.0
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
    return checked(PolynomialWarmup, locals())
