"""Up to a peak and down to almost nothing, once; and the momentum that goes the other way."""

from __future__ import annotations

from typing import Any, get_args

import jax
import jax.numpy as jnp

from ._base import Schedule, recipe
from ._check import (
    require_choice,
    require_finite,
    require_flag,
    require_length,
    require_positive,
    require_range,
)
from ._piecewise import Interpolation, piecewise_interpolate


@recipe
def one_cycle(
    peak_value: Any,
    total_steps: Any,
    pct_start: Any = 0.3,
    div_factor: Any = 25.0,
    final_div_factor: Any = 1e4,
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
    require_finite("peak_value", peak_value)
    require_positive("div_factor", div_factor)
    require_positive("final_div_factor", final_div_factor)
    start = peak_value / div_factor
    values = (start, peak_value, start, start / final_div_factor)
    return _phases(values, total_steps, pct_start, anneal, three_phase)


@recipe
def one_cycle_momentum(
    total_steps: Any,
    pct_start: Any = 0.3,
    base_momentum: Any = 0.85,
    max_momentum: Any = 0.95,
    anneal: Interpolation = "cosine",
    three_phase: bool = False,
) -> Schedule:
    r"""The momentum that goes with `one_cycle`: down while the rate rises, and up again.

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
    require_finite("base_momentum", base_momentum)
    require_finite("max_momentum", max_momentum)
    values = (max_momentum, base_momentum, max_momentum, max_momentum)
    return _phases(values, total_steps, pct_start, anneal, three_phase)


def _phases(
    values: tuple[Any, ...], total_steps: Any, pct_start: Any, anneal: str, three_phase: bool
) -> Schedule:
    """The curve through the first value, the peak, the first value again, and the last one."""
    total_steps = require_length("total_steps", total_steps)
    require_choice("anneal", anneal, get_args(Interpolation))
    require_flag("three_phase", three_phase)
    require_range("pct_start", pct_start, 0, 0.5 if three_phase else 1.0)
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
    """So many steps less, and not fewer than none; of the type that the number has."""
    if isinstance(steps, jax.Array):
        return jnp.maximum(steps - count, 0)
    return max(steps - count, type(steps)(0))
