"""Decays with an end: a line, a power, a square root, a geometric progression, a tangent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import builds
from odyssey_jax.schedules._curves import geometric, line, phase_power, root, sigmoid
from odyssey_jax.schedules._fields import (
    require_choice,
    require_finite,
    require_flag,
    require_length,
    require_positive,
    require_progression,
    require_range,
)
from odyssey_jax.schedules._numbers import canonical_exponent, choose
from odyssey_jax.schedules._steps import (
    Interval,
    StepCount,
    fold,
    interval,
    length,
    select,
)

PastEnd = Literal["hold", "zero", "repeat", "mirror", "stretch"]


PAST_END: tuple[str, ...] = get_args(PastEnd)


@node
class Ending(Schedule):
    """A schedule with an end, and the choices that come with one."""

    past_end: str = dataclasses.field(metadata={"static": True})
    end_on_last_step: bool = dataclasses.field(metadata={"static": True})

    def until(
        self, now: StepCount, steps: Any, curve: Callable[[Interval], jax.Array]
    ) -> jax.Array:
        """The curve over `steps`, and what was asked for after them."""
        value = curve(
            interval_until(now, steps, self.past_end, end_on_last_step=self.end_on_last_step)
        )
        return zero_past_end(value, now, steps, self.past_end)


def require_ending(past_end: Any, end_on_last_step: Any) -> None:
    """The choices of `Ending`."""
    require_choice("past_end", past_end, PAST_END)
    require_flag("end_on_last_step", end_on_last_step)
    if past_end == "stretch" and end_on_last_step:
        raise ValueError(
            "end_on_last_step must be False where past_end is 'stretch', whose end moves; got "
            "end_on_last_step = True."
        )


def interval_until(
    now: StepCount, steps: Any, past_end: str, *, end_on_last_step: bool
) -> Interval:
    """Where `now` is within `steps`, brought back into them if the curve goes on past them.

    In place of the steps there may be the interval itself: see `restarts`.
    """
    if isinstance(steps, Interval):
        return steps
    total = length(steps)
    if past_end == "stretch":
        return _stretched(now, steps)
    if past_end in ("repeat", "mirror"):
        now = fold(now, steps, mirror=past_end == "mirror")
    if end_on_last_step:
        total = total.minus(StepCount(jnp.ones((), jnp.int32)))
    return interval(now, total)


def zero_past_end(value: jax.Array, now: StepCount, steps: Any, past_end: str) -> jax.Array:
    """0 after the end, if that is what was asked for; at the end itself the value stays."""
    if past_end != "zero":
        return value
    return jnp.where(now.since(length(steps)) > 0, 0.0, value)


def _stretched(now: StepCount, steps: Any) -> Interval:
    """Where `now` is within the least multiple of `steps` that it does not exceed."""
    local = fold(now, steps, mirror=False)
    at_end = (local.real() == 0) & (now.real() > 0)
    left = select(at_end, StepCount(jnp.zeros_like(local.whole)), length(steps).minus(local))
    # In units of two steps, as the multiple itself can be more than 2^31 - 1.
    done, left = now.half(), left.half()
    return Interval(done, left, done.plus(left))


@node
class Linear(Ending):
    """A straight line; see `linear`."""

    init_value: Any
    end_value: Any
    transition_steps: Any
    transition_begin: Any

    def at(self, now: StepCount) -> jax.Array:
        """The formula."""
        return self.until(
            now.minus(length(self.transition_begin)),
            self.transition_steps,
            lambda where: line(where.phase(), self.init_value, self.end_value),
        )


@builds(Linear)
def linear(
    init_value: Any,
    end_value: Any,
    transition_steps: Any,
    transition_begin: Any = 0,
    *,
    past_end: PastEnd = "hold",
    end_on_last_step: bool = False,
) -> Linear:
    r"""Go from `init_value` to `end_value` along a straight line.

    $$f(t) = v_0 + (v_1 - v_0) \frac{t - b}{T}, \qquad b \le t \le b + T$$

    $T$ is the length of the line alone: it excludes the $b$ steps before it, and a warm-up that
    it is joined to. The end value is reached at $t = b + T$, one step after the last of the
    line's $T$ updates; with `end_on_last_step` at $t = b + T - 1$.

    Args:
        init_value: The value $v_0$ up to step $b$; scalar, finite.
        end_value: The value $v_1$ at the end; scalar, finite.
        transition_steps: The length $T$ in steps; scalar, in [0, 2**31 - 1]. If 0, the end value
            is in force at once.
        transition_begin: Steps $b$ before the line begins; scalar, in [0, 2**31 - 1].
        past_end: After the end, `"hold"` the end value, drop to `"zero"` (from one step after
            it), `"repeat"` from the start (at the end), `"mirror"`: go back, and forth again, or
            `"stretch"`: from the start over the least multiple of $T$ that is not yet over.
        end_on_last_step: Reach the end value one step earlier, at the last of $T$ updates.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `optax.linear_schedule`, `torch.optim.lr_scheduler.LinearLR`.

    Example:
        >>> from odyssey_jax.schedules import linear
        >>> schedule = linear(0.1, 0.02, transition_steps=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100, 1_000)]
        [0.1, 0.06, 0.02, 0.02]
    """
    require_finite("init_value", init_value)
    require_finite("end_value", end_value)
    transition_steps = require_length("transition_steps", transition_steps)
    transition_begin = require_length("transition_begin", transition_begin)
    require_ending(past_end, end_on_last_step)
    return Linear(
        init_value=init_value,
        end_value=end_value,
        transition_steps=transition_steps,
        transition_begin=transition_begin,
        past_end=past_end,
        end_on_last_step=end_on_last_step,
    )


@node
class Polynomial(Ending):
    """A power of what is left; see `polynomial`."""

    init_value: Any
    end_value: Any
    power: Any = dataclasses.field(metadata={"canonical": canonical_exponent})
    transition_steps: Any
    transition_begin: Any
    k_decay: Any = dataclasses.field(metadata={"canonical": canonical_exponent})

    def at(self, now: StepCount) -> jax.Array:
        """The formula."""

        def curve(where: Interval) -> jax.Array:
            if self.k_decay is None:
                height = phase_power(where.backwards, self.power)
            else:
                time = phase_power(where, self.k_decay)
                height = phase_power(time.backwards, self.power)
            return line(height, self.end_value, self.init_value)

        begin = length(self.transition_begin)
        return self.until(now.minus(begin), self.transition_steps, curve)


@builds(Polynomial)
def polynomial(
    init_value: Any,
    end_value: Any,
    power: Any,
    transition_steps: Any,
    transition_begin: Any = 0,
    k_decay: Any = None,
    *,
    past_end: PastEnd = "hold",
    end_on_last_step: bool = False,
) -> Polynomial:
    r"""Go from `init_value` to `end_value` along a power of what is left.

    $$f(t) = v_1 + (v_0 - v_1) \left(1 - \left(\frac{t - b}{T}\right)^k\right)^p,
      \qquad b \le t \le b + T$$

    $T$ is the length of the curve alone: it excludes the $b$ steps before it, and a warm-up that
    it is joined to. The end value is reached at $t = b + T$, one step after the last of the
    curve's $T$ updates; with `end_on_last_step` at $t = b + T - 1$.

    Args:
        init_value: The value $v_0$ up to step $b$; scalar, finite.
        end_value: The value $v_1$ at the end; scalar, finite.
        power: The exponent $p$; scalar, above 0.
        transition_steps: The length $T$ in steps; scalar, in [0, 2**31 - 1]. If 0, the end value
            is in force at once.
        transition_begin: Steps $b$ before the curve begins; scalar, in [0, 2**31 - 1].
        k_decay: The exponent $k$ of the time; scalar, above 0, or None for 1, at no cost.
        past_end: After the end, `"hold"` the end value, drop to `"zero"` (from one step after
            it), `"repeat"` from the start (at the end), `"mirror"`: go back, and forth again, or
            `"stretch"`: from the start over the least multiple of $T$ that is not yet over.
        end_on_last_step: Reach the end value one step earlier, at the last of $T$ updates.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `optax.polynomial_schedule`, `torch.optim.lr_scheduler.PolynomialLR`; Zhang and Li,
        "k-decay: A New Method for Learning Rate Schedule" (2020); stretched past its end,
        `keras.optimizers.schedules.PolynomialDecay` with `cycle=True`.

    Example:
        >>> from odyssey_jax.schedules import polynomial
        >>> schedule = polynomial(0.1, 0.0, power=2.0, transition_steps=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 90, 100)]
        [0.1, 0.025, 0.001, 0.0]
    """
    require_finite("init_value", init_value)
    require_finite("end_value", end_value)
    require_positive("power", power)
    transition_steps = require_length("transition_steps", transition_steps)
    transition_begin = require_length("transition_begin", transition_begin)
    if k_decay is not None:
        require_positive("k_decay", k_decay)
    require_ending(past_end, end_on_last_step)
    return Polynomial(
        init_value=init_value,
        end_value=end_value,
        power=power,
        transition_steps=transition_steps,
        transition_begin=transition_begin,
        k_decay=k_decay,
        past_end=past_end,
        end_on_last_step=end_on_last_step,
    )


@node
class SqrtDecay(Ending):
    """One less a square root; see `sqrt_decay`."""

    init_value: Any
    decay_steps: Any
    end_value: Any

    def at(self, now: StepCount) -> jax.Array:
        """The formula."""
        curve = lambda where: line(root(where.phase()), self.init_value, self.end_value)
        return self.until(now, self.decay_steps, curve)


@builds(SqrtDecay)
def sqrt_decay(
    init_value: Any,
    decay_steps: Any,
    end_value: Any = 0.0,
    *,
    past_end: PastEnd = "hold",
    end_on_last_step: bool = False,
) -> SqrtDecay:
    r"""Fall from `init_value` to `end_value` as one less the square root of the time.

    $$f(t) = v_1 + (v_0 - v_1) \left(1 - \sqrt{t / T}\right), \qquad 0 \le t \le T$$

    $T$ is the length of the decay alone: it excludes a warm-up joined before it. The end value
    is reached at $t = T$, one step after the last of $T$ updates; with `end_on_last_step` at $t
    = T - 1$.

    Args:
        init_value: The value $v_0$ at step 0; scalar, finite.
        decay_steps: The length $T$ in steps; scalar, in [0, 2**31 - 1]. If 0, the end value is
            in force at once.
        end_value: The value $v_1$ at the end; scalar, finite.
        past_end: After the end, `"hold"` the end value, drop to `"zero"` (from $T + 1$ on),
            `"repeat"` from the start (at $T$), `"mirror"`: climb back, and fall again, or
            `"stretch"`: from the start over the least multiple of $T$ that is not yet over.
        end_on_last_step: Reach the end value at $T - 1$, the last of $T$ updates.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
        Durations" (2024), there called 1-sqrt.

    Example:
        >>> from odyssey_jax.schedules import sqrt_decay
        >>> schedule = sqrt_decay(0.1, 100)
        >>> [round(float(schedule(t)), 4) for t in (0, 25, 81, 100)]
        [0.1, 0.05, 0.01, 0.0]
    """
    require_finite("init_value", init_value)
    decay_steps = require_length("decay_steps", decay_steps)
    require_finite("end_value", end_value)
    require_ending(past_end, end_on_last_step)
    return SqrtDecay(
        init_value=init_value,
        decay_steps=decay_steps,
        end_value=end_value,
        past_end=past_end,
        end_on_last_step=end_on_last_step,
    )


@node
class GeometricDecay(Ending):
    """A geometric progression; see `geometric_decay`."""

    init_value: Any
    decay_steps: Any
    end_value: Any

    def at(self, now: StepCount) -> jax.Array:
        """The formula."""
        curve = lambda where: geometric(where, self.init_value, self.end_value)
        return self.until(now, self.decay_steps, curve)


@builds(GeometricDecay)
def geometric_decay(
    init_value: Any,
    decay_steps: Any,
    end_value: Any,
    *,
    past_end: PastEnd = "hold",
    end_on_last_step: bool = False,
) -> GeometricDecay:
    r"""Fall from `init_value` to `end_value` by the same factor every step.

    $$f(t) = v_0 \left(\frac{v_1}{v_0}\right)^{t / T}, \qquad 0 \le t \le T$$

    The exponential decay that is given by where it ends; `exponential_decay` is given by its
    rate. $T$ is the length of the decay alone: it excludes a warm-up joined before it. The end
    value is reached at $t = T$, one step after the last of $T$ updates; with `end_on_last_step`
    at $t = T - 1$.

    Args:
        init_value: The value $v_0$ at step 0; scalar, in [1e-36, 1e36].
        decay_steps: The length $T$ in steps; scalar, in [0, 2**31 - 1]. If 0, the end value is
            in force at once.
        end_value: The value $v_1$ at the end; scalar, in [1e-36, 1e36], as their quotient is:
            no factor leads to 0.
        past_end: After the end, `"hold"` the end value, drop to `"zero"` (from $T + 1$ on),
            `"repeat"` from the start (at $T$), `"mirror"`: climb back, and fall again, or
            `"stretch"`: from the start over the least multiple of $T$ that is not yet over.
        end_on_last_step: Reach the end value at $T - 1$, the last of $T$ updates.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        The geometric progression; `optax.exponential_decay` with a rate of $v_1 / v_0$.

    Example:
        >>> from odyssey_jax.schedules import geometric_decay
        >>> schedule = geometric_decay(0.4, 100, end_value=0.1)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100, 1_000)]
        [0.4, 0.2, 0.1, 0.1]
    """
    require_progression("init_value", init_value, "end_value", end_value)
    decay_steps = require_length("decay_steps", decay_steps)
    require_ending(past_end, end_on_last_step)
    return GeometricDecay(
        init_value=init_value,
        decay_steps=decay_steps,
        end_value=end_value,
        past_end=past_end,
        end_on_last_step=end_on_last_step,
    )


@node
class TanhDecay(Ending):
    """A hyperbolic tangent; see `tanh_decay`."""

    init_value: Any
    decay_steps: Any
    end_value: Any
    lower: Any
    upper: Any

    def at(self, now: StepCount) -> jax.Array:
        """The formula."""
        return self.until(now, self.decay_steps, self._curve)

    def _curve(self, where: Interval) -> jax.Array:
        time = where.phase()
        on = time.left > 0
        # Masked past the end, where nothing bounds z.
        done = select(on, where.done, StepCount(jnp.zeros_like(where.done.whole)))
        tangent = sigmoid(where._replace(done=done), self.lower, self.upper)
        fall = choose(on, tangent, time)
        return line(fall, self.init_value, self.end_value)


@builds(TanhDecay)
def tanh_decay(
    init_value: Any,
    decay_steps: Any,
    end_value: Any = 0.0,
    lower: Any = -7.0,
    upper: Any = 3.0,
    *,
    past_end: PastEnd = "hold",
    end_on_last_step: bool = False,
) -> TanhDecay:
    r"""Fall from `init_value` to `end_value` along a hyperbolic tangent.

    $$f(t) = v_1 + (v_0 - v_1) \,
      \tfrac{1}{2}\left(1 - \tanh\left(l \left(1 - \frac{t}{T}\right) + u \frac{t}{T}\right)\right),
      \qquad 0 \le t < T$$

    The tangent begins a little below `init_value`, by $(1 + \tanh l) / 2$ of the way, and where
    it ends, a little above `end_value`, the curve jumps to it. $T$ is the length of the decay
    alone: it excludes a warm-up joined before it. The end value is reached at $t = T$, one step
    after the last of $T$ updates; with `end_on_last_step` at $t = T - 1$.

    Args:
        init_value: The value $v_0$ that the curve comes from; scalar, finite.
        decay_steps: The length $T$ in steps; scalar, in [0, 2**31 - 1]. If 0, the end value is
            in force at once.
        end_value: The value $v_1$ at the end; scalar, finite.
        lower: Where on the tangent the curve begins, $l$; scalar, in [-1e4, 1e4].
        upper: Where on the tangent the curve ends, $u$; scalar, in [-1e4, 1e4].
        past_end: After the end, `"hold"` the end value, drop to `"zero"` (from $T + 1$ on),
            `"repeat"` from the start (at $T$), `"mirror"`: climb back, and fall again, or
            `"stretch"`: from the start over the least multiple of $T$ that is not yet over.
        end_on_last_step: Reach the end value at $T - 1$, the last of $T$ updates.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Hsueh et al., "Stochastic Gradient Descent with Hyperbolic-Tangent Decay on
        Classification" (2018); `timm.scheduler.TanhLRScheduler`.

    Example:
        >>> from odyssey_jax.schedules import tanh_decay
        >>> schedule = tanh_decay(0.1, 100)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 70, 99, 100)]
        [0.1, 0.0982, 0.05, 0.0003, 0.0]
    """
    require_finite("init_value", init_value)
    decay_steps = require_length("decay_steps", decay_steps)
    require_finite("end_value", end_value)
    require_range("lower", lower, -1e4, 1e4)
    require_range("upper", upper, -1e4, 1e4)
    require_ending(past_end, end_on_last_step)
    return TanhDecay(
        init_value=init_value,
        decay_steps=decay_steps,
        end_value=end_value,
        lower=lower,
        upper=upper,
        past_end=past_end,
        end_on_last_step=end_on_last_step,
    )
