"""Values at steps, constant or interpolated between them, and the one-cycle policy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import builds, recipe
from odyssey_jax.schedules._curves import cosine, line
from odyssey_jax.schedules._fields import (
    FINITE,
    POSITIVE,
    STEPS,
    checked,
    choice,
    field,
    refuse_optax_order,
    require_boundaries,
    require_choice,
    require_flag,
    require_one_between,
    require_sequence,
    require_values,
    within,
)
from odyssey_jax.schedules._join import piece_at, row, start_of, table_of_starts, table_of_values
from odyssey_jax.schedules._numbers import pair, real, whole_pair
from odyssey_jax.schedules._parts import Part, known_steps, lasting
from odyssey_jax.schedules._power import power
from odyssey_jax.schedules._steps import StepCount
from odyssey_jax.schedules._units import Boundaries, Steps

Interpolation = Literal["linear", "cosine"]
_CURVES = {"linear": line, "cosine": cosine}


def _unconverted(name: str, boundaries: Any) -> tuple[Any, ...]:
    """Return boundaries of the types that they have: computed ones are whole or not, by chance."""
    boundaries = require_sequence(name, boundaries)
    require_boundaries(name, boundaries)
    return boundaries


@node
class PiecewiseConstant(Schedule):
    """A table of values; see `piecewise_constant`."""

    values: Any = field(require_values, canonical=table_of_values)
    boundaries: Any = field(require_boundaries, canonical=table_of_starts)

    def check(self) -> None:
        """Raise ValueError unless there is a boundary between each two values."""
        require_one_between(self.boundaries, len(self.values), "values")

    def at(self, now: StepCount) -> jax.Array:
        """Return the value that is in force."""
        values, starts = table_of_values(self.values), table_of_starts(self.boundaries)
        return row(values, piece_at(now, starts))

    def parts(self) -> list[Part]:
        """Return one part, which comes to rest at the last boundary."""
        return [Part(self.name, end=max(map(known_steps, self.boundaries), default=0.0))]


@node
class PiecewiseInterpolate(Schedule):
    """A table of values and a curve between them; see `piecewise_interpolate`."""

    values: Any = field(require_values, canonical=table_of_values)
    boundaries: Any = field(_unconverted, canonical=table_of_starts)
    interpolation: str = choice(Interpolation)

    def check(self) -> None:
        """Raise ValueError unless there is a boundary between each two values."""
        require_one_between(self.boundaries, len(self.values), "values")

    def at(self, now: StepCount) -> jax.Array:
        """Return the point on the curve between two values."""
        values, starts = table_of_values(self.values), table_of_starts(self.boundaries)
        piece = piece_at(now, starts)
        # The last piece has a length of 0, and so is over at once: its value stays.
        following = jnp.minimum(piece + 1, jnp.shape(values)[0] - 1)
        start = start_of(piece, starts)
        where = now.minus(start).phase(start_of(following, starts).minus(start))
        return _CURVES[self.interpolation](where, row(values, piece), row(values, following))

    def parts(self) -> list[Part]:
        """Return a part for each curve; the last one comes to rest at its boundary."""
        edges = [0.0, *map(known_steps, self.boundaries)]
        curves = [Part(self.name, a, b, b) for a, b in itertools.pairwise(edges)]
        *first, last = curves or [Part(self.name, end=0.0)]
        return lasting([*first, last._replace(stop=None)])


@builds(PiecewiseConstant)
def piecewise_constant(
    values: Sequence[ArrayLike] | np.ndarray, boundaries: Boundaries
) -> PiecewiseConstant:
    r"""Keep one value after another.

    $$f(t) = v_i, \qquad b_i \le t < b_{i+1}, \quad b_0 = 0$$

    A boundary step belongs to the next value. Boundaries may be equal, or 0: the values between
    them are skipped. They count from the start of this schedule: a warm-up joined before it is
    excluded. The last value goes on for ever. The cost of a step is one look-up, however many.

    Args:
        values: The values $v_i$, at least one; each finite.
        boundaries: The steps $b_i$ at which the second and each later value begins; one fewer
            than the values, sorted, each in [0, 2**31 - 1].

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If a value is not finite, or the boundaries are unsorted, too few or too
            many.

    Source:
        `optax.piecewise_constant_schedule`, which takes factors in place of values.

    Example:
        >>> from odyssey_jax.schedules import piecewise_constant
        >>> schedule = piecewise_constant([0.1, 0.5, 0.2], boundaries=[10, 20])
        >>> print(schedule(9), schedule(10), schedule(20))
        0.1 0.5 0.2
    """
    return checked(PiecewiseConstant, locals())


@builds(PiecewiseInterpolate)
def piecewise_interpolate(
    values: Sequence[ArrayLike] | np.ndarray,
    boundaries: Boundaries,
    interpolation: Interpolation = "linear",
) -> PiecewiseInterpolate:
    r"""Go from one value to the next, along lines or half cosines.

    $$f(t) = c\left(v_i, v_{i+1}, \frac{t - b_i}{b_{i+1} - b_i}\right),
      \qquad b_i \le t < b_{i+1}, \quad b_0 = 0$$

    Each value is reached at its boundary to the bit, the last one is held from there on.
    Boundaries may be equal: the curve jumps there, past the values between them. They count
    from the start of this schedule: a warm-up joined before it is excluded. The cost of a step
    is that of one piece, however many.

    Args:
        values: The value $v_0$ at step 0, and the values $v_i$ at the boundaries; each finite.
        boundaries: The steps $b_i$ at which the second and each later value is reached; one
            fewer than the values, sorted, each in [0, 2**31 - 1].
        interpolation: The curve $c$: `"linear"` or `"cosine"`.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If a value is not finite, or the boundaries are unsorted, too few or too
            many.

    Source:
        `optax.piecewise_interpolate_schedule`, which takes factors in place of values.

    Example:
        >>> from odyssey_jax.schedules import piecewise_interpolate
        >>> schedule = piecewise_interpolate([0.0, 0.4, 0.1], boundaries=[10, 30])
        >>> print(schedule(5), schedule(10), schedule(20), schedule(40))
        0.2 0.4 0.25 0.1
    """
    return checked(PiecewiseInterpolate, locals())


@node
class MultistepDecay(Schedule):
    """A staircase with steps of its own; see `multistep_decay`."""

    init_value: Any = field(FINITE)
    boundaries: Any = field(require_boundaries, canonical=table_of_starts)
    gamma: Any = field(POSITIVE)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        cuts = piece_at(now, table_of_starts(self.boundaries))
        return real(self.init_value) * power(pair(self.gamma), whole_pair(cuts))

    def parts(self) -> list[Part]:
        """Return one part, which comes to rest at the last boundary."""
        return [Part(self.name, end=max(map(known_steps, self.boundaries), default=0.0))]


@builds(MultistepDecay)
def multistep_decay(
    init_value: ArrayLike, boundaries: Boundaries, gamma: ArrayLike = 0.1
) -> MultistepDecay:
    r"""Multiply by `gamma` at each of the boundaries.

    $$f(t) = v_0 \, \gamma^{\#\{i : b_i \le t\}}$$

    At a boundary the new value is in force. Boundaries may be equal, and cut twice then, or 0.
    They count from the start of this schedule: a warm-up joined before it is excluded. There is
    no end: after the last boundary the value stays.

    Args:
        init_value: The value $v_0$ before the first boundary; scalar, finite.
        boundaries: The steps $b_i$ of the cuts, any number of them; sorted, each in
            [0, 2**31 - 1].
        gamma: The factor $\gamma$ of each cut; scalar, above 0. A number known to more than
            float32's digits (a Python float) is used with all of them.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range, or the boundaries are unsorted.

    Source:
        `torch.optim.lr_scheduler.MultiStepLR`.

    Example:
        >>> from odyssey_jax.schedules import multistep_decay
        >>> schedule = multistep_decay(0.1, boundaries=[30, 80], gamma=0.5)
        >>> print(schedule(29), schedule(30), schedule(80))
        0.1 0.05 0.025
    """
    return checked(MultistepDecay, locals())


@recipe
def one_cycle(
    peak_value: ArrayLike,
    total_steps: Steps,
    pct_start: ArrayLike = 0.3,
    div_factor: ArrayLike = 25.0,
    final_div_factor: ArrayLike = 1e4,
    anneal: Interpolation = "cosine",
    three_phase: bool = False,
) -> Schedule:
    r"""Rise to a peak, then fall to a far smaller value than at the start, within one run.

    From $v_0 = v / d$ up to $v$ over the first $pT - 1$ steps, then down to $v_0 / e$ by step
    $T - 1$; with `three_phase` first back to $v_0$ over as many steps as up.

    $T$ includes all phases. The end value is reached at $t = T - 1$, on the last of $T$ updates
    (and not at $t = T$, as with the decays), and held from there. The peak need not fall on a
    whole step, and is then passed between two. A phase without steps is skipped: with
    `pct_start=0` the first step is at the peak.

    Args:
        peak_value: The value $v$ at the peak; scalar, finite.
        total_steps: The length $T$ in steps; scalar, in [0, 2**31 - 1].
        pct_start: The part $p$ of the steps on which the value rises; scalar, in [0, 1], with
            `three_phase` in [0, 0.5].
        div_factor: The peak divided by the first value, $d$; scalar, above 0.
        final_div_factor: The first value divided by the last one, $e$; scalar, above 0.
        anneal: The curve of each phase: `"cosine"` or `"linear"`.
        three_phase: Fall to the first value as fast as it rose, and only then to the last one.

    Returns:
        A `piecewise_interpolate`: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large
        Learning Rates" (2018); `torch.optim.lr_scheduler.OneCycleLR`.

    Example:
        >>> from odyssey_jax.schedules import one_cycle
        >>> schedule = one_cycle(0.5, total_steps=100, div_factor=5.0, anneal="linear")
        >>> [round(float(schedule(t)), 5) for t in (0, 29, 64, 99)]
        [0.1, 0.5, 0.25001, 1e-05]
    """
    refuse_optax_order(
        "one_cycle(peak_value, total_steps)",
        "cosine_onecycle_schedule(transition_steps, peak_value)",
        "total_steps",
        total_steps,
        "peak_value",
        peak_value,
    )
    FINITE("peak_value", peak_value)
    POSITIVE("div_factor", div_factor)
    POSITIVE("final_div_factor", final_div_factor)
    start = peak_value / div_factor
    values = (start, peak_value, start, start / final_div_factor)
    return _phases(values, total_steps, pct_start, anneal, three_phase)


@recipe
def one_cycle_momentum(
    total_steps: Steps,
    pct_start: ArrayLike = 0.3,
    base_momentum: ArrayLike = 0.85,
    max_momentum: ArrayLike = 0.95,
    anneal: Interpolation = "cosine",
    three_phase: bool = False,
) -> Schedule:
    r"""Go down while the rate of `one_cycle` rises, and up again: the momentum that goes with it.

    From `max_momentum` to `base_momentum` over the first $pT - 1$ steps, then back to
    `max_momentum` by step $T - 1$, the last of $T$ updates; with `three_phase` over as many
    steps as down, and held from there.

    Args:
        total_steps: The length $T$ of all phases in steps; scalar, in [0, 2**31 - 1].
        pct_start: The part $p$ of the steps on which the rate rises; scalar, in [0, 1], with
            `three_phase` in [0, 0.5].
        base_momentum: The momentum where the rate has its peak; scalar, finite.
        max_momentum: The momentum at the start and at the end; scalar, finite.
        anneal: The curve of each phase: `"cosine"` or `"linear"`.
        three_phase: As that of the rate.

    Returns:
        A `piecewise_interpolate`: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `torch.optim.lr_scheduler.OneCycleLR` with `cycle_momentum=True`.

    Example:
        >>> from odyssey_jax.schedules import one_cycle_momentum
        >>> momentum = one_cycle_momentum(100)
        >>> [round(float(momentum(t)), 4) for t in (0, 29, 64, 99)]
        [0.95, 0.85, 0.9, 0.95]
    """
    FINITE("base_momentum", base_momentum)
    FINITE("max_momentum", max_momentum)
    values = (max_momentum, base_momentum, max_momentum, max_momentum)
    return _phases(values, total_steps, pct_start, anneal, three_phase)


def _phases(
    values: tuple[Any, ...], total_steps: Any, pct_start: Any, anneal: str, three_phase: bool
) -> Schedule:
    """Return the curve through the first value, the peak, the first value again, the last one."""
    total_steps = STEPS("total_steps", total_steps)
    require_choice("anneal", anneal, get_args(Interpolation))
    require_flag("three_phase", three_phase)
    within(0, 0.5 if three_phase else 1.0)("pct_start", pct_start)
    rise, last = _times(pct_start, total_steps), _less(total_steps, 1)
    boundaries = (_less(rise, 1), _less(2 * rise, 2), last)
    if not three_phase:
        values, boundaries = (*values[:2], values[3]), (boundaries[0], last)
    return piecewise_interpolate(values, boundaries, anneal)  # pyright: ignore


def _times(part: Any, steps: Any) -> Any:
    if isinstance(part, jax.Array) or isinstance(steps, jax.Array):
        return jnp.asarray(part, jnp.float32) * jnp.asarray(steps, jnp.float32)
    # A float even where it is whole: or else, as the arguments change, so does the program.
    return float(part * steps)


def _less(steps: Any, count: int) -> Any:
    """Return so many steps less, at least 0, of the type that the number has."""
    if isinstance(steps, jax.Array):
        return jnp.maximum(steps - count, 0)
    return max(steps - count, type(steps)(0))
