"""A warm-up, a long stretch at the peak or near it, and a short decay at the end."""

from __future__ import annotations

from typing import Any, Literal, get_args

from ._base import Schedule, recipe
from ._check import require_choice, require_finite, require_length, require_order
from ._constant import constant
from ._cooldown import DecayShape, cooldown
from ._cosine import cosine_warmup
from ._geometric import exponential_warmup
from ._inverse_sqrt import inverse_sqrt
from ._join import Join, join
from ._linear import linear_warmup
from ._sqrt import sqrt_warmup

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
    peak_value: Any,
    warmup_steps: Any,
    decay_steps: Any,
    total_steps: Any,
    init_value: Any = 0.0,
    end_value: Any = 0.0,
    *,
    warmup: WarmupShape = "linear",
    stable: StableShape = "constant",
    decay: DecayShape = "1-sqrt",
    stable_timescale: Any = None,
    decay_power: Any = None,
    decay_ratio: Any = None,
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
    require_finite("peak_value", peak_value)
    warmup_steps = require_length("warmup_steps", warmup_steps)
    decay_steps = require_length("decay_steps", decay_steps)
    total_steps = require_length("total_steps", total_steps)
    both = warmup_steps + decay_steps
    require_order("warmup_steps + decay_steps", both, "total_steps", total_steps)
    require_choice("warmup", warmup, get_args(WarmupShape))
    rest = cooldown(
        _stable(peak_value, stable, stable_timescale, warmup_steps),
        total_steps - both,
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
