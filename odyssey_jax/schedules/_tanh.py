"""A hyperbolic tangent from one value to another."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ._base import builds
from ._check import require_finite, require_length, require_range
from ._linear import line
from ._moment import Interval, Moment, Phase, choose, select, share
from ._node import node
from ._numbers import pair, real
from ._past_end import Ending, PastEnd, require_ending
from ._power import Pair


def sigmoid(where: Interval, lower: Any, upper: Any) -> Phase:
    """`(1 + tanh(z)) / 2` is done, with z going from `lower` to `upper`.

    Towards the end it is `exp(-2 z)` that counts, which needs z with an absolute error of 1e-7:
    so z is `coarse + fine`, where `coarse` is a sum of products that are exact.
    """
    near, rest = share(where.done, where.total)
    (low, low_rest), (high, high_rest) = _coarse(pair(lower), pair(upper))
    coarse = low * (1 - near) + high * near
    fine = low_rest * (1 - near) + high_rest * near + (real(upper) - real(lower)) * rest
    late = coarse > 0
    small = jnp.exp(-2 * jnp.abs(coarse))
    # Not `exp * exp`, which XLA turns into the `exp` of the sum.
    small = small + small * jnp.expm1(jnp.where(late, -2.0, 2.0) * fine)
    less, more = small / (1 + small), 1 / (1 + small)
    return choose(late, Phase(more, less), Phase(less, more))


def _coarse(lower: Pair, upper: Pair) -> tuple[Pair, Pair]:
    """Both numbers as multiples of one unit, at most 2^11 of it, and what that leaves."""
    greatest = jnp.maximum(jnp.maximum(jnp.abs(lower[0]), jnp.abs(upper[0])), 1.0)
    unit = jax.lax.stop_gradient(jnp.exp2(jnp.ceil(jnp.log2(greatest))) / 2048)
    low, high = (unit * jnp.round(x[0] / unit) for x in (lower, upper))
    return (low, (lower[0] - low) + lower[1]), (high, (upper[0] - high) + upper[1])


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TanhDecay(Ending):
    """A hyperbolic tangent; see `tanh_decay`."""

    init_value: Any
    decay_steps: Any
    end_value: Any
    lower: Any
    upper: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return self.until(now, self.decay_steps, self._curve)

    def _curve(self, where: Interval) -> jax.Array:
        time = where.phase()
        on = time.left > 0
        # Masked past the end, where nothing bounds z.
        done = select(on, where.done, Moment(jnp.zeros_like(where.done.whole)))
        tangent = sigmoid(where._replace(done=done), self.lower, self.upper)
        fall = choose(on, tangent, time)
        return line(fall, self.init_value, self.end_value)


@builds(TanhDecay)
def tanh_decay(
    init_value: Any,
    decay_steps: Any,
    end_value: Any = 0.0,
    lower: Any = -7.0,
    upper: Any = 3.0,
    *,
    past_end: PastEnd = "hold",
    end_on_last_step: bool = False,
) -> TanhDecay:
    r"""Fall from `init_value` to `end_value` along a hyperbolic tangent.

    $$f(t) = v_1 + (v_0 - v_1) \,
      \tfrac{1}{2}\left(1 - \tanh\left(l \left(1 - \frac{t}{T}\right) + u \frac{t}{T}\right)\right),
      \qquad 0 \le t < T$$

    The tangent begins a little below `init_value`, by $(1 + \tanh l) / 2$ of the way, and where
    it ends, a little above `end_value`, the curve jumps to it. $T$ is the length of the decay
    alone: it excludes a warm-up joined before it. The end value is reached at $t = T$, one step
    after the last of $T$ updates; with `end_on_last_step` at $t = T - 1$.

    Args:
        init_value: The value $v_0$ that the curve comes from; scalar, finite.
        decay_steps: The length $T$ in steps; scalar, in [0, 2**31 - 1]. If 0, the end value is
            in force at once.
        end_value: The value $v_1$ at the end; scalar, finite.
        lower: Where on the tangent the curve begins, $l$; scalar, in [-1e4, 1e4].
        upper: Where on the tangent the curve ends, $u$; scalar, in [-1e4, 1e4].
        past_end: After the end, `"hold"` the end value, drop to `"zero"` (from $T + 1$ on),
            `"repeat"` from the start (at $T$), `"mirror"`: climb back, and fall again, or
            `"stretch"`: from the start over the least multiple of $T$ that is not yet over.
        end_on_last_step: Reach the end value at $T - 1$, the last of $T$ updates.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Hsueh et al., "Stochastic Gradient Descent with Hyperbolic-Tangent Decay on
        Classification" (2018); `timm.scheduler.TanhLRScheduler`.

    Example:
        >>> from odyssey_jax.schedules import tanh_decay
        >>> schedule = tanh_decay(0.1, 100)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 70, 99, 100)]
        [0.1, 0.0982, 0.05, 0.0003, 0.0]
    """
    require_finite("init_value", init_value)
    decay_steps = require_length("decay_steps", decay_steps)
    require_finite("end_value", end_value)
    require_range("lower", lower, -1e4, 1e4)
    require_range("upper", upper, -1e4, 1e4)
    require_ending(past_end, end_on_last_step)
    return TanhDecay(
        init_value=init_value,
        decay_steps=decay_steps,
        end_value=end_value,
        lower=lower,
        upper=upper,
        past_end=past_end,
        end_on_last_step=end_on_last_step,
    )
