"""Half a cosine from one value to another."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ._base import builds
from ._check import require_finite, require_length
from ._moment import Moment, Phase
from ._node import node
from ._numbers import between
from ._past_end import Ending, PastEnd, require_ending


def cosine(where: Phase, start: Any, end: Any) -> jax.Array:
    """`end + (start - end) * (1 + cos(pi * done)) / 2`, in the form `sin(pi / 2 * left) ** 2`.

    The sine is taken of the nearer end's distance, so that it is small where the other form
    cancels: one transcendental, all digits at both ends.
    """
    small = jnp.square(jnp.sin((math.pi / 2) * where.nearer))
    big = 1 - small
    late = where.late
    return between(start, end, jnp.where(late, big, small), jnp.where(late, small, big))


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CosineDecay(Ending):
    """Half a cosine; see `cosine_decay`."""

    init_value: Any
    decay_steps: Any
    end_value: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        curve = lambda where: cosine(where.phase(), self.init_value, self.end_value)
        return self.until(now, self.decay_steps, curve)


@builds(CosineDecay)
def cosine_decay(
    init_value: Any,
    decay_steps: Any,
    end_value: Any = 0.0,
    *,
    past_end: PastEnd = "hold",
    end_on_last_step: bool = False,
) -> CosineDecay:
    r"""Fall from `init_value` to `end_value` along half a cosine.

    $$f(t) = v_1 + (v_0 - v_1) \, \tfrac{1}{2}\left(1 + \cos \frac{\pi t}{T}\right),
      \qquad 0 \le t \le T$$

    $T$ is the length of the decay alone: it excludes a warm-up joined before it
    (`warmup_cosine` takes the length with the warm-up included). The end value is reached at $t
    = T$, one step after the last of $T$ updates; with `end_on_last_step` at $t = T - 1$.

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
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017),
        equation 5; `torch.optim.lr_scheduler.CosineAnnealingLR`, which mirrors past its end.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay
        >>> schedule = cosine_decay(0.1, 100, end_value=0.02)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100, 1_000)]
        [0.1, 0.06, 0.02, 0.02]
    """
    require_finite("init_value", init_value)
    decay_steps = require_length("decay_steps", decay_steps)
    require_finite("end_value", end_value)
    require_ending(past_end, end_on_last_step)
    return CosineDecay(
        init_value=init_value,
        decay_steps=decay_steps,
        end_value=end_value,
        past_end=past_end,
        end_on_last_step=end_on_last_step,
    )
