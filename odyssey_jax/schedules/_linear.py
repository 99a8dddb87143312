"""A straight line from one value to another: a decay, and the warm-up that is its twin."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from ._base import builds
from ._check import require_finite, require_length
from ._moment import Moment, Phase, length
from ._node import node
from ._numbers import between
from ._past_end import Ending, PastEnd, require_ending
from ._warmup import Warmup, require_warmup


def line(where: Phase, start: Any, end: Any) -> jax.Array:
    """`start + (end - start) * done`."""
    return between(start, end, where.done, where.left)


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Linear(Ending):
    """A straight line; see `linear`."""

    init_value: Any
    end_value: Any
    transition_steps: Any
    transition_begin: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return self.until(
            now.minus(length(self.transition_begin)),
            self.transition_steps,
            lambda where: line(where.phase(), self.init_value, self.end_value),
        )


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LinearWarmup(Warmup):
    """A straight line; see `linear_warmup`."""

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return line(self.where(now).phase(), self.init_value, self.peak_value)


@builds(Linear)
def linear(
    init_value: Any,
    end_value: Any,
    transition_steps: Any,
    transition_begin: Any = 0,
    *,
    past_end: PastEnd = "hold",
    end_on_last_step: bool = False,
) -> Linear:
    r"""Go from `init_value` to `end_value` along a straight line.

    $$f(t) = v_0 + (v_1 - v_0) \frac{t - b}{T}, \qquad b \le t \le b + T$$

    $T$ is the length of the line alone: it excludes the $b$ steps before it, and a warm-up that
    it is joined to. The end value is reached at $t = b + T$, one step after the last of the
    line's $T$ updates; with `end_on_last_step` at $t = b + T - 1$.

    Args:
        init_value: The value $v_0$ up to step $b$; scalar, finite.
        end_value: The value $v_1$ at the end; scalar, finite.
        transition_steps: The length $T$ in steps; scalar, in [0, 2**31 - 1]. If 0, the end value
            is in force at once.
        transition_begin: Steps $b$ before the line begins; scalar, in [0, 2**31 - 1].
        past_end: After the end, `"hold"` the end value, drop to `"zero"` (from one step after
            it), `"repeat"` from the start (at the end), `"mirror"`: go back, and forth again, or
            `"stretch"`: from the start over the least multiple of $T$ that is not yet over.
        end_on_last_step: Reach the end value one step earlier, at the last of $T$ updates.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `optax.linear_schedule`, `torch.optim.lr_scheduler.LinearLR`.

    Example:
        >>> from odyssey_jax.schedules import linear
        >>> schedule = linear(0.1, 0.02, transition_steps=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100, 1_000)]
        [0.1, 0.06, 0.02, 0.02]
    """
    require_finite("init_value", init_value)
    require_finite("end_value", end_value)
    transition_steps = require_length("transition_steps", transition_steps)
    transition_begin = require_length("transition_begin", transition_begin)
    require_ending(past_end, end_on_last_step)
    return Linear(
        init_value=init_value,
        end_value=end_value,
        transition_steps=transition_steps,
        transition_begin=transition_begin,
        past_end=past_end,
        end_on_last_step=end_on_last_step,
    )


@builds(LinearWarmup)
def linear_warmup(peak_value: Any, warmup_steps: Any, init_value: Any = 0.0) -> LinearWarmup:
    r"""Rise to `peak_value` along a straight line, and stay there.

    $$f(t) = v_0 + (v - v_0) \frac{t}{W}, \qquad 0 \le t \le W$$

    $W$ is the length of the warm-up alone. The peak is reached at $t = W$ to the bit: the first
    step after the warm-up.

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
        Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.2.

    Example:
        >>> from odyssey_jax.schedules import linear_warmup
        >>> schedule = linear_warmup(0.2, warmup_steps=10)
        >>> print(schedule(0), schedule(5), schedule(10), schedule(11))
        0.0 0.1 0.2 0.2
    """
    warmup_steps = require_warmup(peak_value, warmup_steps, init_value)
    return LinearWarmup(peak_value, warmup_steps, init_value)
