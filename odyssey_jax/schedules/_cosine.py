"""Half a cosine from one value to another, or several, and with a linear warm-up before it."""

from __future__ import annotations

from typing import Any

import jax
from jax.typing import ArrayLike

from odyssey_jax._pytree import node
from odyssey_jax.schedules._builds import builds, recipe
from odyssey_jax.schedules._curves import cosine, laps, line, phase_power, wave
from odyssey_jax.schedules._decays import Ending, PastEnd
from odyssey_jax.schedules._fields import (
    CYCLES,
    FINITE,
    POSITIVE,
    STEPS,
    checked,
    field,
    flag,
    refuse_optax_order,
    require_part,
)
from odyssey_jax.schedules._join import Join, join
from odyssey_jax.schedules._numbers import canonical_exponent, choose, pair
from odyssey_jax.schedules._steps import Interval, Phase
from odyssey_jax.schedules._units import Steps
from odyssey_jax.schedules._warmups import linear_warmup


@node
class CosineDecay(Ending):
    """Half a cosine, or several; see `cosine_decay`."""

    init_value: Any = field(FINITE)
    decay_steps: Any = field(STEPS)
    end_value: Any = field(FINITE)
    exponent: Any = field(POSITIVE, optional=True, canonical=canonical_exponent)
    num_cycles: Any = field(CYCLES, optional=True)
    k_decay: Any = field(POSITIVE, optional=True, canonical=canonical_exponent)
    hard_restarts: bool = flag()

    def curve(self, where: Interval) -> jax.Array:
        """Return the cosine, as cheaply as the options allow."""
        if self.num_cycles is None and self.k_decay is None and self.exponent is None:
            return cosine(where, self.init_value, self.end_value)
        fall = wave(self._time(where))
        if self.exponent is not None:
            fall = phase_power(fall.backwards, self.exponent).backwards
        return line(fall, self.init_value, self.end_value)

    def check(self) -> None:
        """Raise ValueError if there is no number of falls to restart."""
        super().check()
        if self.hard_restarts and self.num_cycles is None:
            raise ValueError(
                "hard_restarts needs num_cycles, the number of falls; got num_cycles = None."
            )

    def _time(self, where: Interval) -> Phase:
        """Return how much of the current half of a cosine is done."""
        time = where.phase()
        if self.num_cycles is None:
            return time if self.k_decay is None else phase_power(where, self.k_decay)
        high, low = pair(self.num_cycles)
        if self.hard_restarts:
            _, lap = laps(where, (high, low))
            lap = choose(time.left > 0, lap, time)
        else:
            whole, lap = laps(where, (2 * high, 2 * low))
            lap = choose(whole % 2 == 1, lap.backwards, lap)
        return lap if self.k_decay is None else phase_power(lap, self.k_decay)


@builds(CosineDecay)
def cosine_decay(
    init_value: ArrayLike,
    decay_steps: Steps,
    end_value: ArrayLike = 0.0,
    exponent: ArrayLike | None = None,
    num_cycles: ArrayLike | None = None,
    k_decay: ArrayLike | None = None,
    *,
    hard_restarts: bool = False,
    past_end: PastEnd = "hold",
    end_on_last_step: bool = False,
) -> CosineDecay:
    r"""Fall from `init_value` to `end_value` along half a cosine, or along several.

    $$f(t) = v_1 + (v_0 - v_1)
      \left(\tfrac{1}{2}\left(1 + \cos 2 \pi c \left(\frac{t}{T}\right)^k\right)\right)^e,
      \qquad 0 \le t \le T$$

    $T$ is the length of the decay alone: it excludes a warm-up joined before it
    (`warmup_cosine` takes the length with the warm-up included). The end value is reached at $t
    = T$, one step after the last of $T$ updates; with `end_on_last_step` at $t = T - 1$.

    Args:
        init_value: The value $v_0$ at step 0; scalar, finite.
        decay_steps: The length $T$ in steps; scalar, in [0, 2**31 - 1]. If 0, the end value is
            in force at once.
        end_value: The value $v_1$ at the end; scalar, finite.
        exponent: The exponent $e$ of the cosine; scalar, above 0, or None for 1, at no cost.
        num_cycles: The number of cosines $c$, whole or not; scalar, in [0, 2**19], or None for
            1/2, at no cost. If $2 c$ is not an odd number, the curve ends elsewhere than at
            `end_value`, and holds what it ends at.
        k_decay: The exponent $k$ of the time within each half of a cosine; scalar, above 0, or
            None for 1, at no cost.
        hard_restarts: Fall along `num_cycles` halves of a cosine, one after the other, each from
            `init_value`, in place of falling and rising; the last one reaches `end_value` at
            $T$.
        past_end: After the end, `"hold"` the end value, drop to `"zero"` (from $T + 1$ on),
            `"repeat"` from the start (at $T$), `"mirror"`: climb back, and fall again, or
            `"stretch"`: from the start over the least multiple of $T$ that is not yet over.
        end_on_last_step: Reach the end value at $T - 1$, the last of $T$ updates.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017),
        equation 5; `torch.optim.lr_scheduler.CosineAnnealingLR`, which mirrors past its end;
        `optax.cosine_decay_schedule` (the exponent); Zhang and Li, "k-decay: A New Method for
        Learning Rate Schedule" (2020); `transformers.get_cosine_schedule_with_warmup` and
        `transformers.get_cosine_with_hard_restarts_schedule_with_warmup` (the cycles).

    Example:
        >>> from odyssey_jax.schedules import cosine_decay
        >>> schedule = cosine_decay(0.1, 100, end_value=0.02)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100, 1_000)]
        [0.1, 0.06, 0.02, 0.02]
        >>> sawtooth = cosine_decay(0.1, 100, num_cycles=4, hard_restarts=True)
        >>> [round(float(sawtooth(t)), 4) for t in (0, 24, 25, 99, 100)]
        [0.1, 0.0004, 0.1, 0.0004, 0.0]
    """
    return checked(CosineDecay, locals())


@recipe
def warmup_cosine(
    peak_value: ArrayLike,
    warmup_steps: Steps,
    total_steps: Steps,
    init_value: ArrayLike = 0.0,
    end_value: ArrayLike = 0.0,
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
    refuse_optax_order(
        "warmup_cosine(peak_value, warmup_steps, total_steps, init_value)",
        "warmup_cosine_decay_schedule(init_value, peak_value, warmup_steps, decay_steps)",
        "warmup_steps",
        warmup_steps,
        "init_value",
        init_value,
    )
    rise = linear_warmup(peak_value, warmup_steps, init_value)
    total_steps = STEPS("total_steps", total_steps)
    require_part("warmup_steps", rise.warmup_steps, "total_steps", total_steps)
    rest = total_steps - rise.warmup_steps
    decay = cosine_decay(peak_value, rest, end_value, end_on_last_step=end_on_last_step)
    return join([rise, decay], [rise.warmup_steps])
