"""Any schedule brought down along the curve of a decay: cooldown, SWA, warmup-stable-decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import as_schedule, builds, recipe
from odyssey_jax.schedules._curves import geometric, line, phase_power, root, wave
from odyssey_jax.schedules._endless import constant, inverse_sqrt
from odyssey_jax.schedules._fields import (
    FINITE,
    OPEN_SHARE,
    POSITIVE,
    STEPS,
    checked,
    choice,
    field,
    flag,
    require_choice,
    require_part,
)
from odyssey_jax.schedules._join import Join, join
from odyssey_jax.schedules._numbers import canonical_exponent, real
from odyssey_jax.schedules._parts import Part, known_steps, limited
from odyssey_jax.schedules._steps import ONE_STEP, Interval, Phase, StepCount, select, step_count
from odyssey_jax.schedules._units import Steps
from odyssey_jax.schedules._warmups import (
    cosine_warmup,
    exponential_warmup,
    linear_warmup,
    sqrt_warmup,
)

DecayShape = Literal["linear", "cosine", "1-sqrt", "power", "exponential"]


def _exponential(where: Interval, ratio: Any) -> Phase:
    """Return the phase of which `(1 - r ** done) / (1 - r)` is done: it ends at 0."""
    time, ratio = where.phase(), real(ratio)
    log = jnp.log(ratio)
    # Near the end the difference has few digits; there the logarithm has them all.
    near = time.left * -log < 1
    end = ratio * jnp.expm1(jnp.where(near, time.left * -log, 0.0))
    fall = jnp.where(near, end, geometric(where, 1.0, ratio) - ratio) / (1 - ratio)
    return Phase(-jnp.expm1(time.done * log) / (1 - ratio), fall)


@node
class Cooldown(Schedule):
    """A schedule and how it is brought down; see `cooldown`."""

    schedule: Schedule = field(as_schedule)
    cooldown_begin: Any = field(STEPS)
    cooldown_steps: Any = field(STEPS)
    end_value: Any = field(FINITE)
    shape: str = choice(DecayShape)
    decay_power: Any = field(POSITIVE, optional=True, canonical=canonical_exponent)
    decay_ratio: Any = field(OPEN_SHARE, optional=True)
    freeze: bool = flag()
    end_on_last_step: bool = flag()

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        begin, total = step_count(self.cooldown_begin), step_count(self.cooldown_steps)
        if self.end_on_last_step:
            total = total.minus(ONE_STEP)
        begun = now.reached(begin)
        start = self.schedule.at(select(begun, begin, now) if self.freeze else now)
        fall = self._fall(now.minus(begin).interval(total))
        # A cooldown of length 0 is over at once, and yet not before it begins.
        done, left = jnp.where(begun, fall.done, 0.0), jnp.where(begun, fall.left, 1.0)
        return line(Phase(done, left), start, self.end_value)

    def check(self) -> None:
        """Raise ValueError unless each shape has its own argument, and no other's."""
        for name, owner in (("decay_power", "power"), ("decay_ratio", "exponential")):
            value = getattr(self, name)
            if (value is not None) != (self.shape == owner):
                raise ValueError(
                    f"{name} belongs to the shape {owner!r}, which needs it; got {name} = "
                    f"{value!r} with the shape {self.shape!r}."
                )

    def parts(self) -> list[Part]:
        """Return the parts of the schedule up to the cooldown, and the cooldown."""
        begin = known_steps(self.cooldown_begin)
        steps = max(known_steps(self.cooldown_steps) - self.end_on_last_step, 0.0)
        last = Part("cooldown", begin, None, begin + steps)
        return [*limited(self.schedule.parts(), 0, begin), last]

    def _fall(self, where: Interval) -> Phase:
        if self.shape == "power":
            return phase_power(where, self.decay_power)
        if self.shape == "exponential":
            return _exponential(where, self.decay_ratio)
        return _SHAPES[self.shape](where.phase())


_SHAPES: dict[str, Callable[[Phase], Phase]] = {
    "linear": lambda where: where,
    "cosine": wave,
    "1-sqrt": root,
}


@builds(Cooldown)
def cooldown(
    schedule: Schedule | Callable[[Any], Any],
    cooldown_begin: Steps,
    cooldown_steps: Steps,
    end_value: ArrayLike = 0.0,
    shape: DecayShape = "linear",
    *,
    decay_power: ArrayLike | None = None,
    decay_ratio: ArrayLike | None = None,
    freeze: bool = False,
    end_on_last_step: bool = False,
) -> Cooldown:
    r"""Follow a schedule, and from some step on bring it down to `end_value`.

    $$g(t) = v_1 + (f(t) - v_1) \, d\left(\frac{t - b}{n}\right), \qquad
      d(x) = 1 - x, \; \tfrac{1}{2}(1 + \cos \pi x), \; 1 - \sqrt{x}, \; 1 - x^p, \;
      \frac{r^x - r}{1 - r}$$

    Before $b$ it is the schedule itself, to the bit. The schedule goes on while it is brought
    down, unless `freeze` keeps it at $f(b)$. The end value is reached at $t = b + n$, one step
    after the last of $b + n$ updates; with `end_on_last_step` one step earlier. It is held from
    there. $b$ includes a warm-up that is part of the schedule.

    Args:
        schedule: The schedule $f$, or a plain function of the step.
        cooldown_begin: The step $b$ from which it is brought down; scalar, in [0, 2**31 - 1].
        cooldown_steps: The steps $n$ that it takes; scalar, in [0, 2**31 - 1]. If 0, the end
            value is in force from $b$ on.
        end_value: The value $v_1$ at the end; scalar, finite.
        shape: The factor $d$, in the order above: `"linear"`, `"cosine"`, `"1-sqrt"`,
            `"power"` or `"exponential"`.
        decay_power: The exponent $p$ of `"power"`; scalar, above 0.
        decay_ratio: The factor $r$ of `"exponential"`; scalar, in (0, 1). With $v_1 / f(b)$ the
            curve is the geometric progression from one to the other.
        freeze: Start from the value at $b$, and not from what the schedule would go on to.
        end_on_last_step: Reach the end value at $b + n - 1$, the last of $b + n$ updates.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range, or belongs to another shape.

    Source:
        Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
        Durations" (2024); the decay functions of timm's `WSDLRScheduler`.

    Example:
        >>> from odyssey_jax.schedules import constant, cooldown
        >>> schedule = cooldown(constant(0.4), cooldown_begin=90, cooldown_steps=10)
        >>> print(schedule(89), schedule(95), schedule(100))
        0.4 0.2 0.0
    """
    return checked(Cooldown, locals())


@recipe
def swa(
    schedule: Schedule | Callable[[Any], Any],
    swa_value: ArrayLike,
    swa_start: Steps,
    anneal_steps: Steps = 10,
    anneal: Literal["linear", "cosine"] = "cosine",
) -> Cooldown:
    r"""Go from the value in force to the one at which weights are averaged, and stay there.

    Before `swa_start` it is the schedule itself; then the curve from its value at that step to
    `swa_value`, which is reached `anneal_steps` later and held. `swa_start` includes a warm-up
    that is part of the schedule.

    Args:
        schedule: The schedule until then, or a plain function of the step.
        swa_value: The value to average weights at; scalar, finite.
        swa_start: The step from which the value changes; scalar, in [0, 2**31 - 1].
        anneal_steps: The steps that it takes; scalar, in [0, 2**31 - 1].
        anneal: The curve: `"linear"` or `"cosine"`.

    Returns:
        A `cooldown` that is frozen: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization"
        (2018); `torch.optim.swa_utils.SWALR`.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, swa
        >>> schedule = swa(cosine_decay(0.4, 100), swa_value=0.1, swa_start=50, anneal_steps=10)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 55, 60, 100)]
        [0.4, 0.2, 0.15, 0.1, 0.1]
    """
    FINITE("swa_value", swa_value)
    STEPS("swa_start", swa_start)
    STEPS("anneal_steps", anneal_steps)
    require_choice("anneal", anneal, ("linear", "cosine"))
    return cooldown(schedule, swa_start, anneal_steps, swa_value, anneal, freeze=True)


WarmupShape = Literal["linear", "cosine", "1-sqrt", "exponential"]
StableShape = Literal["constant", "inverse_sqrt"]
_WARMUPS = {
    "linear": linear_warmup,
    "cosine": cosine_warmup,
    "1-sqrt": sqrt_warmup,
    "exponential": exponential_warmup,
}


@recipe
def warmup_stable_decay(
    peak_value: ArrayLike,
    warmup_steps: Steps,
    decay_steps: Steps,
    total_steps: Steps,
    init_value: ArrayLike = 0.0,
    end_value: ArrayLike = 0.0,
    *,
    warmup: WarmupShape = "linear",
    stable: StableShape = "constant",
    decay: DecayShape = "1-sqrt",
    stable_timescale: Steps | None = None,
    decay_power: ArrayLike | None = None,
    decay_ratio: ArrayLike | None = None,
    end_on_last_step: bool = False,
) -> Join:
    r"""Warm up, stay, and decay over the last `decay_steps` (WSD, also called trapezoidal).

    $$f(t) = \begin{cases}
      w(t) & t < W \\
      s(t - W) & W \le t < T - D \\
      v_1 + (s(t - W) - v_1) \, d\left(\frac{t - T + D}{D}\right) & t \ge T - D
    \end{cases}$$

    with $s = v$, or $v / \sqrt{1 + t / \tau}$, which goes on falling during the decay; the
    factors $d$ are those of `cooldown`.

    $T$ includes the warm-up and the decay. The peak is reached at $t = W$ and the end value at
    $t = T$, one step after the last of $T$ updates (with `end_on_last_step` at $t = T - 1$), and
    held from there.

    Args:
        peak_value: The value $v$ at the end of the warm-up; scalar, finite.
        warmup_steps: The length $W$ of the warm-up in steps; scalar, in [0, 2**31 - 1].
        decay_steps: The length $D$ of the decay in steps; scalar, in [0, 2**31 - 1].
        total_steps: The length $T$ of all three in steps; scalar, at least the two together.
        init_value: The value at step 0; scalar, finite; above 0 for an exponential warm-up.
        end_value: The value $v_1$ at the end; scalar, finite.
        warmup: The curve up: `"linear"`, `"cosine"`, `"1-sqrt"` or `"exponential"`.
        stable: The curve between: `"constant"` or `"inverse_sqrt"`.
        decay: The curve down: `"linear"`, `"cosine"`, `"1-sqrt"`, `"power"` or
            `"exponential"`.
        stable_timescale: The steps $\tau$ of `"inverse_sqrt"`; scalar, in [1, 2**31 - 1], or
            None for as many as the warm-up has.
        decay_power: The exponent of the decay `"power"`; scalar, above 0.
        decay_ratio: The factor of the decay `"exponential"`; scalar, in (0, 1).
        end_on_last_step: Reach the end value at $T - 1$, the last of $T$ updates.

    Returns:
        A `join` of the warm-up and a `cooldown`: step to float32.

    Raises:
        ValueError: If an argument is outside its range, or belongs to another choice.

    Source:
        Hu et al., "MiniCPM" (2024), section 4; Hägele et al., "Scaling Laws and Compute-Optimal
        Training Beyond Fixed Training Durations" (2024); timm's `WSDLRScheduler`,
        `transformers.get_wsd_schedule`.

    Example:
        >>> from odyssey_jax.schedules import warmup_stable_decay
        >>> schedule = warmup_stable_decay(0.4, 10, 20, 100, decay="linear")
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 80, 90, 100)]
        [0.2, 0.4, 0.4, 0.2, 0.0]
    """
    FINITE("peak_value", peak_value)
    warmup_steps = STEPS("warmup_steps", warmup_steps)
    decay_steps = STEPS("decay_steps", decay_steps)
    total = STEPS("total_steps", total_steps)
    both = warmup_steps + decay_steps
    require_part("warmup_steps + decay_steps", both, "total_steps", total)
    require_choice("warmup", warmup, get_args(WarmupShape))
    rest = cooldown(
        _stable(peak_value, stable, stable_timescale, warmup_steps),
        total - both,
        decay_steps,
        end_value,
        decay,
        decay_power=decay_power,
        decay_ratio=decay_ratio,
        end_on_last_step=end_on_last_step,
    )
    return join([_WARMUPS[warmup](peak_value, warmup_steps, init_value), rest], [warmup_steps])


def _stable(peak_value: Any, stable: str, timescale: Any, warmup_steps: Any) -> Schedule:
    require_choice("stable", stable, get_args(StableShape))
    if stable == "inverse_sqrt":
        return inverse_sqrt(peak_value, warmup_steps if timescale is None else timescale)
    if timescale is not None:
        raise ValueError(
            f"stable_timescale belongs to stable = 'inverse_sqrt'; got stable_timescale = "
            f"{timescale!r}, stable = {stable!r}."
        )
    return constant(peak_value)
