"""A geometric progression from one value to another: a decay, and the warm-up that is its twin."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ._base import builds
from ._check import require_length, require_progression
from ._moment import Interval, Moment
from ._node import node
from ._numbers import pair, real
from ._past_end import Ending, PastEnd, require_ending
from ._power import power
from ._warmup import Warmup, require_warmup


def geometric(where: Interval, start: Any, end: Any) -> jax.Array:
    """`start * (end / start) ** done`, measured from the nearer end."""
    late = where.left.since(where.done) <= 0
    done, left = where.done.pair(), where.left.pair()
    exponent = jnp.where(late, -left[0], done[0]), jnp.where(late, -left[1], done[1])
    share = power(pair(end), exponent, pair(start), unit=where.total.pair())
    return jnp.where(late, real(end), real(start)) * share


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GeometricDecay(Ending):
    """A geometric progression; see `geometric_decay`."""

    init_value: Any
    decay_steps: Any
    end_value: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        curve = lambda where: geometric(where, self.init_value, self.end_value)
        return self.until(now, self.decay_steps, curve)


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExponentialWarmup(Warmup):
    """A geometric progression; see `exponential_warmup`."""

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return geometric(self.where(now), self.init_value, self.peak_value)


@builds(GeometricDecay)
def geometric_decay(
    init_value: Any,
    decay_steps: Any,
    end_value: Any,
    *,
    past_end: PastEnd = "hold",
    end_on_last_step: bool = False,
) -> GeometricDecay:
    r"""Fall from `init_value` to `end_value` by the same factor every step.

    $$f(t) = v_0 \left(\frac{v_1}{v_0}\right)^{t / T}, \qquad 0 \le t \le T$$

    The exponential decay that is given by where it ends; `exponential_decay` is given by its
    rate. $T$ is the length of the decay alone: it excludes a warm-up joined before it. The end
    value is reached at $t = T$, one step after the last of $T$ updates; with `end_on_last_step`
    at $t = T - 1$.

    Args:
        init_value: The value $v_0$ at step 0; scalar, in [1e-36, 1e36].
        decay_steps: The length $T$ in steps; scalar, in [0, 2**31 - 1]. If 0, the end value is
            in force at once.
        end_value: The value $v_1$ at the end; scalar, in [1e-36, 1e36], as their quotient is:
            no factor leads to 0.
        past_end: After the end, `"hold"` the end value, drop to `"zero"` (from $T + 1$ on),
            `"repeat"` from the start (at $T$), `"mirror"`: climb back, and fall again, or
            `"stretch"`: from the start over the least multiple of $T$ that is not yet over.
        end_on_last_step: Reach the end value at $T - 1$, the last of $T$ updates.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        The geometric progression; `optax.exponential_decay` with a rate of $v_1 / v_0$.

    Example:
        >>> from odyssey_jax.schedules import geometric_decay
        >>> schedule = geometric_decay(0.4, 100, end_value=0.1)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100, 1_000)]
        [0.4, 0.2, 0.1, 0.1]
    """
    require_progression("init_value", init_value, "end_value", end_value)
    decay_steps = require_length("decay_steps", decay_steps)
    require_ending(past_end, end_on_last_step)
    return GeometricDecay(
        init_value=init_value,
        decay_steps=decay_steps,
        end_value=end_value,
        past_end=past_end,
        end_on_last_step=end_on_last_step,
    )


@builds(ExponentialWarmup)
def exponential_warmup(peak_value: Any, warmup_steps: Any, init_value: Any) -> ExponentialWarmup:
    r"""Rise from `init_value` to `peak_value` by the same factor every step, and stay there.

    $$f(t) = v_0 \left(\frac{v}{v_0}\right)^{t / W}, \qquad 0 \le t \le W$$

    $W$ is the length of the warm-up alone. The peak is reached at $t = W$ to the bit: the first
    step after the warm-up.

    Args:
        peak_value: The value $v$ at the end; scalar, in [1e-36, 1e36].
        warmup_steps: The length $W$ in steps; scalar, in [0, 2**31 - 1]. If 0, the peak is in
            force at once.
        init_value: The value $v_0$ at step 0; scalar, in [1e-36, 1e36], as their quotient is:
            from 0 no factor leads away.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        The geometric progression; `optax.exponential_decay` with a rate of $v / v_0$.

    Example:
        >>> from odyssey_jax.schedules import exponential_warmup
        >>> schedule = exponential_warmup(0.4, warmup_steps=10, init_value=0.1)
        >>> print(schedule(0), schedule(5), schedule(10), schedule(11))
        0.1 0.2 0.4 0.4
    """
    warmup_steps = require_warmup(peak_value, warmup_steps, init_value)
    require_progression("init_value", init_value, "peak_value", peak_value)
    return ExponentialWarmup(peak_value, warmup_steps, init_value)
