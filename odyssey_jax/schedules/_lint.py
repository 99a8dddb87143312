"""What looks like a mistake in a schedule, and what to do about it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._describe import Survey, survey, survey_steps
from odyssey_jax.schedules._endless import Constant
from odyssey_jax.schedules._fields import FACTOR
from odyssey_jax.schedules._parts import Part, last_end

# A rate this much smaller than the peak moves nothing in float32, but every cosine is that small
# just before its end: as good as 0 counts if it is for more than a hundredth of the run.
_NOTHING = 1e-9
_LONG = 0.01
# A rate below this share of the peak may be meant for the last steps, and not for so much of a run.
_LITTLE = 1e-3
_MUCH = 0.2
# No more steps than this, in a run so many times as long, are as many as one would want epochs.
_FEW = 20
_TIMES = 200
# No optimizer is used with a rate above this.
_HIGH = 10.0
# The rounding of a rate, as a share of the peak.
_ROUNDING = 1e-6
# Less than this share of the peak is no jump, and no end that was missed.
_SLIGHT = 0.05
# So long before a joint is "just before" it.
_MOMENT = 2.0**-10
_STAIRS = {"constant", "step_decay", "multistep_decay", "piecewise_constant", "from_callable"}


class Finding(NamedTuple):
    """What looks like a mistake.

    Attributes:
        kind: What it is, in a word or two: "jump", "rate 0", "end not reached", ...
        step: The step at which it shows.
        what: What was found.
        remedy: What to do if it was not meant.
    """

    kind: str
    step: int
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"step {self.step:,}: {self.what}. {self.remedy}."


def lint(
    schedule: Schedule | Callable[[Any], Any],
    total_steps: int,
    steps_per_epoch: float | None = None,
) -> list[Finding]:
    """Find what is probably not meant in a schedule for a run.

    Looked for are: a warm-up longer than the run, an end or a part that the run never reaches,
    a jump where two parts meet, a rate that is negative, above 10 or not finite, one that is 0
    before the run is over or next to nothing for a fifth of it, and lengths that count epochs.

    Args:
        schedule: The schedule, or a plain function of the step.
        total_steps: Steps in the run, in [1, 2**31 - 1].
        steps_per_epoch: Steps in an epoch, if known; lengths in epochs are then found more often.

    Returns:
        The findings, in the order of their steps; empty if there is none.

    Raises:
        ValueError: If an argument is outside its range, or the schedule is not yet in steps.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, lint
        >>> lint(cosine_decay(0.1, 1_000), total_steps=1_000)
        []
        >>> print(lint(cosine_decay(0.1, 90), total_steps=1_000)[0])
        step 90: the rate is 0 from here on: 910 of 1,000 steps change nothing. Make the
        schedule as long as the run, or give it an end above 0; lengths in epochs are written
        epochs(n).
    """
    if steps_per_epoch is not None:
        FACTOR("steps_per_epoch", steps_per_epoch)
    seen = survey(schedule, total_steps)
    if not np.all(np.isfinite(seen.values)):
        return [_not_finite(seen)]
    findings = [*_too_long(seen), *_jumps(seen), *_sign(seen, _is_negated(schedule)), *_high(seen)]
    looks = (_epochs(seen, steps_per_epoch), _zero(seen), _few(seen, steps_per_epoch), _low(seen))
    # Of what is over too soon, the first says why.
    findings += itertools.islice(itertools.chain(*looks), 1)
    return sorted(findings, key=lambda finding: finding.step)


def _not_finite(seen: Survey) -> Finding:
    first = int(np.argmin(np.isfinite(seen.values)))
    return Finding(
        "not finite",
        int(seen.steps[first]),
        f"the value is {seen.values[first]}",
        "Look for a function of one's own that divides by 0 or takes a log of it",
    )


def _too_long(seen: Survey) -> Iterator[Finding]:
    """Find parts that the run cuts off, or never gets to."""
    total, last = seen.total, seen.at(seen.total - 1)
    for part in seen.parts:
        if part.start > total:
            what = f"{part.kind} begins here, and the run is over at step {total:,}"
            remedy = "Make the run longer, or what is before it shorter"
            yield Finding("part not reached", round(part.start), what, remedy)
            return
        end = part.end if part.stop is None or (part.end or 0) <= part.stop else part.stop
        if end is None or end <= total:
            continue
        goal = seen.at(end if part.stop is None else end - _MOMENT)
        where = f"{part.kind} ends at step {end:,.10g}, and the run at step {total:,}"
        if abs(goal) - abs(last) > _SLIGHT * abs(goal):
            yield Finding(
                "warm-up longer than the run",
                total,
                f"{where}: the rate gets to {last:.3g} and not to {goal:.3g}",
                "Make the warm-up shorter than the run",
            )
            return
        if abs(last - goal) > _SLIGHT * abs(seen.peak) or part.kind in _STAIRS:
            yield Finding(
                "end not reached",
                total,
                f"{where}: the rate is still {last:.3g} and not {goal:.3g}",
                "Make the decay as long as what is left of the run after the parts before it",
            )
            return


def _jumps(seen: Survey) -> Iterator[Finding]:
    """Find joints at which the value leaps, where neither side is noise, stairs or a restart."""
    for before, after in zip(seen.parts[:-1], seen.parts[1:], strict=True):
        joint = after.start
        if joint >= seen.total or _may_leap(before, after):
            continue
        left, right = seen.at(joint - _MOMENT), seen.at(joint)
        if abs(right - left) > _SLIGHT * abs(seen.peak):
            cut = before.end is not None and before.end > joint
            short = f", which is cut off before its end at step {before.end:,.10g}" if cut else ""
            yield Finding(
                "jump",
                round(joint),
                f"the rate jumps from {left:.3g} at the end of {before.kind}{short} to "
                f"{right:.3g} at the start of {after.kind}",
                "Let the one begin where the other ends",
            )


def _may_leap(before: Part, after: Part) -> bool:
    both_stairs = before.kind in _STAIRS and after.kind in _STAIRS
    restart = before.kind == after.kind or after.kind.endswith("warmup")
    noisy = any(part.kind.startswith("with_noise") for part in (before, after))
    return noisy or both_stairs or (restart and not before.kind.endswith("warmup"))


def _is_negated(schedule: Any) -> bool:
    """Return whether it is `-1 * schedule`, as `optax.scale_by_schedule` wants it."""
    factor = getattr(schedule, "factor", None)
    return factor is not None and bool(np.all(np.asarray(factor) < 0))


def _sign(seen: Survey, negated: bool) -> Iterator[Finding]:
    """Find a rate below 0, unless it was negated on purpose, or on both sides of it."""
    if seen.peak < 0 and not negated:
        below = int(np.argmax(seen.values < 0))
        yield Finding(
            "sign",
            int(seen.steps[below]),
            f"the rate is {seen.values[below]:.3g}: below 0 an optimizer goes uphill",
            "Leave the sign out; optax.sgd and the others descend by themselves",
        )
        return
    wrong = np.sign(seen.values) * np.sign(seen.peak) < 0
    wrong &= np.abs(seen.values) > _ROUNDING * abs(seen.peak)
    if np.any(wrong):
        first = int(np.argmax(wrong))
        yield Finding(
            "sign",
            int(seen.steps[first]),
            f"the rate is {seen.values[first]:.3g}, of the other sign than its peak",
            "Keep it within bounds: clip(schedule, min_value=0.0)",
        )


def _high(seen: Survey) -> Iterator[Finding]:
    """Find a rate that no optimizer is used with."""
    if seen.peak > _HIGH:
        first = int(np.argmax(seen.values > _HIGH))
        yield Finding(
            "rate high",
            int(seen.steps[first]),
            f"the rate is {seen.values[first]:.3g}, and {seen.peak:.3g} at its peak",
            "Look whether the arguments are in order: a number of steps may stand for a rate",
        )


def check_learning_rate(schedule: Schedule | Callable[[Any], Any], updates: int) -> None:
    """Raise ValueError if a learning rate is negative at one of a run's updates.

    Args:
        schedule: The schedule, in steps. One of ours is looked at as `survey` does; another
            function, which may not take several steps at once, at the first, the middle and the
            last update.
        updates: Updates in the run, at least 1.

    Raises:
        ValueError: If it is, naming the first step where it is.

    Example:
        >>> from odyssey_jax.schedules import check_learning_rate, constant
        >>> check_learning_rate(constant(0.1), 1_000)
    """
    if isinstance(schedule, Constant) and np.ndim(schedule.value) == 0:  # nothing to compile
        steps, values = np.zeros(1, np.int64), np.asarray([schedule.value], np.float64)
    elif isinstance(schedule, Schedule):
        steps = survey_steps(schedule.parts(), updates)
        # A few lengths alone, as each is compiled for.
        room = 1 << (len(steps) - 1).bit_length()
        steps = np.pad(steps, (0, room - len(steps)), mode="edge")
        values = np.asarray(schedule(steps), np.float64)
    else:
        steps = np.unique([0, updates // 2, updates - 1])
        values = np.asarray([schedule(jnp.int32(step)) for step in steps], np.float64)
    wrong = values < -_ROUNDING * np.max(np.abs(values))
    if np.any(wrong):
        first = int(np.argmax(wrong))
        raise ValueError(
            f"learning_rate must not be negative, got {values[first]:.3g} at step "
            f"{int(steps[first]):,} of {schedule!r}: an optimizer descends by itself. Leave "
            "the sign out, or keep it within bounds: clip(schedule, min_value=0.0)."
        )


def _zero(seen: Survey) -> Iterator[Finding]:
    """Find a rate of 0 at the end, for more than the last step."""
    first = _alive_until(seen, _NOTHING * abs(seen.peak))
    if seen.total - first <= _LONG * seen.total:
        first = _alive_until(seen, 0.0)
    left = seen.total - first
    if left < 2:
        return
    words = "0" if seen.at(first) == 0 else f"{seen.at(first):.1g}, as good as 0,"
    yield Finding(
        "rate 0",
        first,
        f"the rate is {words} from here on: {left:,} of {seen.total:,} steps change nothing",
        "Make the schedule as long as the run, or give it an end above 0; lengths in epochs are "
        "written epochs(n)",
    )


def _alive_until(seen: Survey, least: float) -> int:
    """Return the step after the last one at which the value is more than `least`."""
    return _after_last(seen, np.abs(seen.values) > least)


def _after_last(seen: Survey, holds: np.ndarray) -> int:
    """Return the step after the last one at which something holds."""
    found = np.flatnonzero(holds)
    return int(seen.steps[found[-1]]) + 1 if len(found) else 0


def _low(seen: Survey) -> Iterator[Finding]:
    """Find a rate that is held at next to nothing for much of the run."""
    last, peak = seen.values[-1], abs(seen.peak)
    if abs(last) >= _LITTLE * (1 - _ROUNDING) * peak:
        return
    still = _after_last(seen, np.abs(seen.values - last) > _ROUNDING * peak)
    left = seen.total - still
    if left > _MUCH * seen.total:
        yield Finding(
            "rate low",
            still,
            f"the rate is held at {abs(last) / peak:.1g} of its peak from here on, for {left:,} of "
            f"{seen.total:,} steps",
            "Make the schedule as long as the run, or give it a higher end",
        )


def _few(seen: Survey, steps_per_epoch: float | None) -> Iterator[Finding]:
    """Find lengths so small that they must count epochs."""
    last = seen.parts[-1]
    over = last.start if last.kind == "constant" else last.end
    if over is None and last.turn is not None:
        over = last.start + last.turn
    run = _FEW if steps_per_epoch is None else seen.total / steps_per_epoch
    if over is not None and 2 <= over <= min(_FEW, run, seen.total / _TIMES):
        what = "the schedule is over" if last.turn is None else "its first cycle is over"
        yield Finding(
            "epochs",
            round(over),
            f"{what} after {over:,.10g} of {seen.total:,} steps",
            "If its lengths are epochs, write epochs(n) for each, or use by_epoch",
        )


def _epochs(seen: Survey, steps_per_epoch: float | None) -> Iterator[Finding]:
    """Find a decay that is over after as many steps as the run has epochs, or fewer."""
    if steps_per_epoch is None:
        return
    run = seen.total / steps_per_epoch
    final = abs(seen.values[-1]) / (abs(seen.peak) or 1.0)
    end = last_end(seen.parts)
    if final > 0.5 or (end is None and final > _ROUNDING):
        return
    over = _half_life(seen) if end is None else end
    if steps_per_epoch >= 2 and over <= run and over < seen.total / 2:
        yield Finding(
            "epochs",
            round(over),
            f"the schedule is over at step {over:,.10g}, in the run's first epochs: it has "
            f"{run:,.4g} epochs of {steps_per_epoch:,.10g} steps",
            "If its lengths are epochs, write epochs(n) for each, or use by_epoch",
        )


def _half_life(seen: Survey) -> float:
    """Return the step at which half of the peak is gone."""
    after = np.abs(seen.values[seen.peak_index :]) < abs(seen.peak) / 2
    return float(seen.steps[seen.peak_index + int(np.argmax(after))])
