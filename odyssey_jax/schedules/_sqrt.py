"""A square root of the time: a decay that is steep at first, a warm-up that is steep at last."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ._base import builds
from ._check import require_finite, require_length
from ._linear import line
from ._moment import Moment, Phase
from ._node import node
from ._past_end import Ending, PastEnd, require_ending
from ._warmup import Warmup, require_warmup


def root(where: Phase) -> Phase:
    """`sqrt(done)` is done."""
    begun = where.done > 0
    # Masked, as the derivative is not finite at 0.
    done = jnp.where(begun, jnp.sqrt(jnp.where(begun, where.done, 1.0)), 0.0)
    return Phase(done, where.left / (1 + done))


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SqrtDecay(Ending):
    """One less a square root; see `sqrt_decay`."""

    init_value: Any
    decay_steps: Any
    end_value: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        curve = lambda where: line(root(where.phase()), self.init_value, self.end_value)
        return self.until(now, self.decay_steps, curve)


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SqrtWarmup(Warmup):
    """One less a square root; see `sqrt_warmup`."""

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        left = self.where(now).phase().backwards
        return line(root(left), self.peak_value, self.init_value)


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


@builds(SqrtWarmup)
def sqrt_warmup(peak_value: Any, warmup_steps: Any, init_value: Any = 0.0) -> SqrtWarmup:
    r"""Rise to `peak_value` as one less the square root of what is left, and stay there.

    $$f(t) = v_0 + (v - v_0) \left(1 - \sqrt{1 - t / W}\right), \qquad 0 \le t \le W$$

    It is steepest at its end; `polynomial_warmup` with power 1/2 is steepest at its start. $W$
    is the length of the warm-up alone. The peak is reached at $t = W$ to the bit: the first step
    after the warm-up.

    Args:
        peak_value: The value $v$ at the end; scalar, finite.
        warmup_steps: The length $W$ in steps; scalar, in [0, 2**31 - 1]. If 0, the peak is in
            force at once.
        init_value: The value $v_0$ at step 0; scalar, finite.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `transformers.get_wsd_schedule` with `warmup_type="1-sqrt"`.

    Example:
        >>> from odyssey_jax.schedules import sqrt_warmup
        >>> schedule = sqrt_warmup(0.2, warmup_steps=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 75, 100, 101)]
        [0.0, 0.1, 0.2, 0.2]
    """
    warmup_steps = require_warmup(peak_value, warmup_steps, init_value)
    return SqrtWarmup(peak_value, warmup_steps, init_value)
