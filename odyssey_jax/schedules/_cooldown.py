"""Any schedule brought down to a value of one's own, along the curve of a decay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from ._base import Schedule, builds, recipe
from ._callable import as_schedule
from ._check import (
    require_choice,
    require_finite,
    require_flag,
    require_length,
    require_positive,
    require_share,
)
from ._cosine import wave
from ._geometric import geometric
from ._linear import line
from ._moment import Interval, Moment, Phase, interval, length, select
from ._node import node
from ._numbers import canonical_exponent, real
from ._raise import raised
from ._sqrt import root

DecayShape = Literal["linear", "cosine", "1-sqrt", "power", "exponential"]


def _exponential(where: Interval, ratio: Any) -> Phase:
    """`(1 - r ** done) / (1 - r)` is done: geometric, and moved so that it ends at 0."""
    time, ratio = where.phase(), real(ratio)
    log = jnp.log(ratio)
    # Near the end the difference has few digits; there the logarithm has them all.
    near = time.left * -log < 1
    end = ratio * jnp.expm1(jnp.where(near, time.left * -log, 0.0))
    fall = jnp.where(near, end, geometric(where, 1.0, ratio) - ratio) / (1 - ratio)
    return Phase(-jnp.expm1(time.done * log) / (1 - ratio), fall)


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cooldown(Schedule):
    """A schedule and how it is brought down; see `cooldown`."""

    schedule: Schedule
    cooldown_begin: Any
    cooldown_steps: Any
    end_value: Any
    shape: str = dataclasses.field(metadata={"static": True})
    decay_power: Any = dataclasses.field(metadata={"canonical": canonical_exponent})
    decay_ratio: Any
    freeze: bool = dataclasses.field(metadata={"static": True})
    end_on_last_step: bool = dataclasses.field(metadata={"static": True})

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        begin, total = length(self.cooldown_begin), length(self.cooldown_steps)
        if self.end_on_last_step:
            total = total.minus(Moment(jnp.ones((), jnp.int32)))
        begun = now.reached(begin)
        start = self.schedule.at(select(begun, begin, now) if self.freeze else now)
        fall = self._fall(interval(now.minus(begin), total))
        # A cooldown of length 0 is over at once, and yet not before it begins.
        done, left = jnp.where(begun, fall.done, 0.0), jnp.where(begun, fall.left, 1.0)
        return line(Phase(done, left), start, self.end_value)

    def _fall(self, where: Interval) -> Phase:
        if self.shape == "power":
            return raised(where, self.decay_power)
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
    cooldown_begin: Any,
    cooldown_steps: Any,
    end_value: Any = 0.0,
    shape: DecayShape = "linear",
    *,
    decay_power: Any = None,
    decay_ratio: Any = None,
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
    inner = as_schedule("schedule", schedule)
    begin = require_length("cooldown_begin", cooldown_begin)
    steps = require_length("cooldown_steps", cooldown_steps)
    require_finite("end_value", end_value)
    require_choice("shape", shape, get_args(DecayShape))
    _require_own("decay_power", decay_power, "power", shape)
    _require_own("decay_ratio", decay_ratio, "exponential", shape)
    if decay_power is not None:
        require_positive("decay_power", decay_power)
    if decay_ratio is not None:
        require_share("decay_ratio", decay_ratio, open_low=True)
    require_flag("freeze", freeze)
    require_flag("end_on_last_step", end_on_last_step)
    return Cooldown(
        inner,
        begin,
        steps,
        end_value,
        shape,
        decay_power,
        decay_ratio,
        freeze,
        end_on_last_step,
    )


def _require_own(name: str, value: Any, owner: str, shape: str) -> None:
    """An argument that one shape needs, and that the others would ignore."""
    if (value is not None) != (shape == owner):
        raise ValueError(
            f"{name} belongs to the shape {owner!r}, which needs it; got {name} = {value!r} "
            f"with the shape {shape!r}."
        )


@recipe
def swa(
    schedule: Schedule | Callable[[Any], Any],
    swa_value: Any,
    swa_start: Any,
    anneal_steps: Any = 10,
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
    require_finite("swa_value", swa_value)
    require_length("swa_start", swa_start)
    require_length("anneal_steps", anneal_steps)
    require_choice("anneal", anneal, ("linear", "cosine"))
    return cooldown(schedule, swa_start, anneal_steps, swa_value, anneal, freeze=True)
