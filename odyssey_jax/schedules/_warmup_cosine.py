"""The most used composition: a linear warm-up, then a cosine decay."""

from __future__ import annotations

from typing import Any

from ._base import recipe
from ._check import require_finite, require_flag, require_length, require_order
from ._cosine import cosine_decay
from ._join import Join, join
from ._linear import linear_warmup


@recipe
def warmup_cosine(
    peak_value: Any,
    warmup_steps: Any,
    total_steps: Any,
    init_value: Any = 0.0,
    end_value: Any = 0.0,
    *,
    end_on_last_step: bool = False,
) -> Join:
    r"""Warm up linearly, then fall along half a cosine.

    $$f(t) = \begin{cases}
      v_0 + (v - v_0) \, t / W & t < W \\
      v_1 + (v - v_1) \, \tfrac{1}{2}\left(1 + \cos \pi \frac{t - W}{T - W}\right) & t \ge W
    \end{cases}$$

    $T$ includes the warm-up. The peak is reached at $t = W$ and the end value at $t = T$, one
    step after the last of $T$ updates (with `end_on_last_step` at $t = T - 1$), and held from
    there.

    Args:
        peak_value: The value $v$ at the end of the warm-up; scalar, finite.
        warmup_steps: The length $W$ of the warm-up in steps; scalar, in [0, 2**31 - 1].
        total_steps: The length $T$ of both in steps; scalar, in [warmup_steps, 2**31 - 1].
        init_value: The value $v_0$ at step 0; scalar, finite.
        end_value: The value $v_1$ at the end; scalar, finite.
        end_on_last_step: Reach the end value at $T - 1$, the last of $T$ updates.

    Returns:
        A `join` of `linear_warmup` and `cosine_decay`: step to float32.

    Raises:
        ValueError: If an argument is outside its range, or the warm-up is longer than the
            whole.

    Source:
        `optax.warmup_cosine_decay_schedule`, `transformers.get_cosine_schedule_with_warmup`.

    Example:
        >>> from odyssey_jax.schedules import warmup_cosine
        >>> schedule = warmup_cosine(0.1, warmup_steps=10, total_steps=110)
        >>> [round(float(schedule(t)), 4) for t in (0, 10, 60, 110)]
        [0.0, 0.1, 0.05, 0.0]
    """
    require_finite("peak_value", peak_value)
    warmup_steps = require_length("warmup_steps", warmup_steps)
    total_steps = require_length("total_steps", total_steps)
    require_order("warmup_steps", warmup_steps, "total_steps", total_steps)
    require_finite("init_value", init_value)
    require_finite("end_value", end_value)
    require_flag("end_on_last_step", end_on_last_step)
    decay = cosine_decay(
        peak_value, total_steps - warmup_steps, end_value, end_on_last_step=end_on_last_step
    )
    return join([linear_warmup(peak_value, warmup_steps, init_value), decay], [warmup_steps])
