"""Decays with an end: a line, a power, a square root, a geometric progression, a tangent."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import builds
from odyssey_jax.schedules._curves import geometric, line, phase_power, root, sigmoid
from odyssey_jax.schedules._fields import (
    FINITE,
    POSITIVE,
    STEPS,
    checked,
    choice,
    field,
    flag,
    require_progression,
    within,
)
from odyssey_jax.schedules._numbers import canonical_exponent, choose
from odyssey_jax.schedules._parts import Part, known_steps
from odyssey_jax.schedules._steps import ONE_STEP, Interval, StepCount, fold, select, step_count
from odyssey_jax.schedules._units import Steps

PastEnd = Literal["hold", "zero", "repeat", "mirror", "stretch"]


@node
class Ending(Schedule):
    """A curve over a number of steps, and what comes after its end.

    A kind of decay has its numbers as fields, and its formula as `curve`.
    """

    past_end: str = choice(PastEnd)
    end_on_last_step: bool = flag()

    length_field: ClassVar[str] = "decay_steps"
    """The field that holds the number of steps."""
    begin_field: ClassVar[str | None] = None
    """The field that holds the steps before the curve begins, if there is one."""

    def curve(self, where: Interval) -> jax.Array:
        """Return the value at a place within the curve."""
        raise NotImplementedError(f"{type(self).__name__} has no formula: define `curve`.")

    def at(self, now: StepCount) -> jax.Array:
        """Return the value on the curve, or what was asked for past its end."""
        if self.begin is not None:
            now = now.minus(step_count(self.begin))
        value = self.curve(self._where(now))
        if self.past_end != "zero":
            return value
        # At the end itself the value stays.
        return jnp.where(now.since(step_count(self.length)) > 0, 0.0, value)

    def check(self) -> None:
        """Raise ValueError if an end that moves is asked for one step earlier."""
        if self.past_end == "stretch" and self.end_on_last_step:
            raise ValueError(
                "end_on_last_step must be False where past_end is 'stretch', whose end moves; got "
                "end_on_last_step = True."
            )

    @property
    def length(self) -> Any:
        """The number of steps; while `restarts` are evaluated, the interval itself."""
        return getattr(self, self.length_field)

    @property
    def begin(self) -> Any:
        """The steps before the curve begins, or None for a curve that begins at once."""
        return None if self.begin_field is None else getattr(self, self.begin_field)

    def parts(self) -> list[Part]:
        """Return one part, which comes to rest at its end, or turns there."""
        steps = known_steps(self.length) - self.end_on_last_step
        end = known_steps(self.begin or 0) + max(steps, 0.0)
        if self.past_end in ("hold", "zero"):
            return [Part(self.name, end=end)]
        return [Part(self.name, turn=None if self.past_end == "stretch" else end)]

    def _where(self, now: StepCount) -> Interval:
        """Return where `now` is, brought back into the curve if that goes on past its end."""
        if isinstance(self.length, Interval):
            return self.length
        total = step_count(self.length)
        if self.past_end == "stretch":
            return _stretched(now, self.length)
        if self.past_end in ("repeat", "mirror"):
            now = fold(now, self.length, mirror=self.past_end == "mirror")
        return now.interval(total.minus(ONE_STEP) if self.end_on_last_step else total)


def _stretched(now: StepCount, steps: Any) -> Interval:
    """Return where `now` is within the least multiple of `steps` that it does not exceed."""
    local = fold(now, steps, mirror=False)
    at_end = (local.real() == 0) & (now.real() > 0)
    left = select(at_end, StepCount(jnp.zeros_like(local.whole)), step_count(steps).minus(local))
    # In units of two steps, as the multiple itself can be more than 2^31 - 1.
    done, left = now.half(), left.half()
    return Interval(done, left, done.plus(left))


@node
class Linear(Ending):
    """A straight line; see `linear`."""

    init_value: Any = field(FINITE)
    end_value: Any = field(FINITE)
    transition_steps: Any = field(STEPS)
    transition_begin: Any = field(STEPS)

    length_field = "transition_steps"
    begin_field = "transition_begin"

    def curve(self, where: Interval) -> jax.Array:
        """Return the point on the line."""
        return line(where.phase(), self.init_value, self.end_value)


@builds(Linear)
def linear(
    init_value: ArrayLike,
    end_value: ArrayLike,
    transition_steps: Steps,
    transition_begin: Steps = 0,
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
    return checked(Linear, locals())


@node
class Polynomial(Ending):
    """A power of what is left; see `polynomial`."""

    init_value: Any = field(FINITE)
    end_value: Any = field(FINITE)
    power: Any = field(POSITIVE, canonical=canonical_exponent)
    transition_steps: Any = field(STEPS)
    transition_begin: Any = field(STEPS)
    k_decay: Any = field(POSITIVE, optional=True, canonical=canonical_exponent)

    length_field = "transition_steps"
    begin_field = "transition_begin"

    def curve(self, where: Interval) -> jax.Array:
        """Return the power of what is left."""
        left = where.backwards
        if self.k_decay is not None:
            left = phase_power(where, self.k_decay).backwards
        return line(phase_power(left, self.power), self.end_value, self.init_value)


@builds(Polynomial)
def polynomial(
    init_value: ArrayLike,
    end_value: ArrayLike,
    power: ArrayLike,
    transition_steps: Steps,
    transition_begin: Steps = 0,
    k_decay: ArrayLike | None = None,
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
    return checked(Polynomial, locals())


@node
class SqrtDecay(Ending):
    """One less a square root; see `sqrt_decay`."""

    init_value: Any = field(FINITE)
    decay_steps: Any = field(STEPS)
    end_value: Any = field(FINITE)

    def curve(self, where: Interval) -> jax.Array:
        """Return 1 less the square root."""
        return line(root(where.phase()), self.init_value, self.end_value)


@builds(SqrtDecay)
def sqrt_decay(
    init_value: ArrayLike,
    decay_steps: Steps,
    end_value: ArrayLike = 0.0,
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
    return checked(SqrtDecay, locals())


@node
class GeometricDecay(Ending):
    """A geometric progression; see `geometric_decay`."""

    init_value: Any = field(POSITIVE)
    decay_steps: Any = field(STEPS)
    end_value: Any = field(POSITIVE)

    def curve(self, where: Interval) -> jax.Array:
        """Return the term of the progression."""
        return geometric(where, self.init_value, self.end_value)

    def check(self) -> None:
        """Raise ValueError unless float32 holds the progression."""
        super().check()
        require_progression("init_value", self.init_value, "end_value", self.end_value)


@builds(GeometricDecay)
def geometric_decay(
    init_value: ArrayLike,
    decay_steps: Steps,
    end_value: ArrayLike,
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
    return checked(GeometricDecay, locals())


@node
class TanhDecay(Ending):
    """A hyperbolic tangent; see `tanh_decay`."""

    init_value: Any = field(FINITE)
    decay_steps: Any = field(STEPS)
    end_value: Any = field(FINITE)
    lower: Any = field(within(-1e4, 1e4))
    upper: Any = field(within(-1e4, 1e4))

    def curve(self, where: Interval) -> jax.Array:
        """Return the tangent, and the end value at the end."""
        time = where.phase()
        on = time.left > 0
        # Masked past the end, where nothing bounds z.
        done = select(on, where.done, StepCount(jnp.zeros_like(where.done.whole)))
        tangent = sigmoid(where._replace(done=done), self.lower, self.upper)
        fall = choose(on, tangent, time)
        return line(fall, self.init_value, self.end_value)


@builds(TanhDecay)
def tanh_decay(
    init_value: ArrayLike,
    decay_steps: Steps,
    end_value: ArrayLike = 0.0,
    lower: ArrayLike = -7.0,
    upper: ArrayLike = 3.0,
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
    return checked(TanhDecay, locals())
