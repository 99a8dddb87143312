"""A power of the distance: to the end (a decay), or from the start (a warm-up)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from ._base import builds
from ._check import require_finite, require_length, require_positive
from ._linear import line
from ._moment import Interval, Moment, length
from ._node import node
from ._numbers import canonical_exponent
from ._past_end import Ending, PastEnd, require_ending
from ._raise import raised
from ._warmup import Warmup, require_warmup


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Polynomial(Ending):
    """A power of what is left; see `polynomial`."""

    init_value: Any
    end_value: Any
    power: Any = dataclasses.field(metadata={"canonical": canonical_exponent})
    transition_steps: Any
    transition_begin: Any
    k_decay: Any = dataclasses.field(metadata={"canonical": canonical_exponent})

    def at(self, now: Moment) -> jax.Array:
        """The formula."""

        def curve(where: Interval) -> jax.Array:
            if self.k_decay is None:
                height = raised(where.backwards, self.power)
            else:
                time = raised(where, self.k_decay)
                height = raised(time.backwards, self.power)
            return line(height, self.end_value, self.init_value)

        begin = length(self.transition_begin)
        return self.until(now.minus(begin), self.transition_steps, curve)


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PolynomialWarmup(Warmup):
    """A power of the step; see `polynomial_warmup`."""

    power: Any = dataclasses.field(metadata={"canonical": canonical_exponent})

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        height = raised(self.where(now), self.power)
        return line(height, self.init_value, self.peak_value)


@builds(Polynomial)
def polynomial(
    init_value: Any,
    end_value: Any,
    power: Any,
    transition_steps: Any,
    transition_begin: Any = 0,
    k_decay: Any = None,
    *,
    past_end: PastEnd = "hold",
    end_on_last_step: bool = False,
) -> Polynomial:
    r"""Go from `init_value` to `end_value` along a power of what is left.

    $$f(t) = v_1 + (v_0 - v_1) \left(1 - \left(\frac{t - b}{T}\right)^k\right)^p,
      \qquad b \le t \le b + T$$

    $T$ is the length of the curve alone: it excludes the $b$ steps before it, and a warm-up that
    it is joined to. The end value is reached at $t = b + T$, one step after the last of the
    curve's $T$ updates; with `end_on_last_step` at $t = b + T - 1$.

    Args:
        init_value: The value $v_0$ up to step $b$; scalar, finite.
        end_value: The value $v_1$ at the end; scalar, finite.
        power: The exponent $p$; scalar, above 0.
        transition_steps: The length $T$ in steps; scalar, in [0, 2**31 - 1]. If 0, the end value
            is in force at once.
        transition_begin: Steps $b$ before the curve begins; scalar, in [0, 2**31 - 1].
        k_decay: The exponent $k$ of the time; scalar, above 0, or None for 1, at no cost.
        past_end: After the end, `"hold"` the end value, drop to `"zero"` (from one step after
            it), `"repeat"` from the start (at the end), `"mirror"`: go back, and forth again, or
            `"stretch"`: from the start over the least multiple of $T$ that is not yet over.
        end_on_last_step: Reach the end value one step earlier, at the last of $T$ updates.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `optax.polynomial_schedule`, `torch.optim.lr_scheduler.PolynomialLR`; Zhang and Li,
        "k-decay: A New Method for Learning Rate Schedule" (2020); stretched past its end,
        `keras.optimizers.schedules.PolynomialDecay` with `cycle=True`.

    Example:
        >>> from odyssey_jax.schedules import polynomial
        >>> schedule = polynomial(0.1, 0.0, power=2.0, transition_steps=100)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 90, 100)]
        [0.1, 0.025, 0.001, 0.0]
    """
    require_finite("init_value", init_value)
    require_finite("end_value", end_value)
    require_positive("power", power)
    transition_steps = require_length("transition_steps", transition_steps)
    transition_begin = require_length("transition_begin", transition_begin)
    if k_decay is not None:
        require_positive("k_decay", k_decay)
    require_ending(past_end, end_on_last_step)
    return Polynomial(
        init_value=init_value,
        end_value=end_value,
        power=power,
        transition_steps=transition_steps,
        transition_begin=transition_begin,
        k_decay=k_decay,
        past_end=past_end,
        end_on_last_step=end_on_last_step,
    )


@builds(PolynomialWarmup)
def polynomial_warmup(
    peak_value: Any, warmup_steps: Any, power: Any = 2.0, init_value: Any = 0.0
) -> PolynomialWarmup:
    r"""Rise to `peak_value` along a power of the step, and stay there.

    $$f(t) = v_0 + (v - v_0) \left(\frac{t}{W}\right)^p, \qquad 0 \le t \le W$$

    Power 2 is what some recipes call exponential; `exponential_warmup` is the exponential one.
    $W$ is the length of the warm-up alone. The peak is reached at $t = W$ to the bit: the first
    step after the warm-up.

    Args:
        peak_value: The value $v$ at the end; scalar, finite.
        warmup_steps: The length $W$ in steps; scalar, in [0, 2**31 - 1]. If 0, the peak is in
            force at once.
        power: The exponent $p$; scalar, above 0.
        init_value: The value $v_0$ at step 0; scalar, finite.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        The rise that mirrors `optax.polynomial_schedule`.

    Example:
        >>> from odyssey_jax.schedules import polynomial_warmup
        >>> schedule = polynomial_warmup(0.2, warmup_steps=10)
        >>> print(schedule(0), schedule(5), schedule(10), schedule(11))
        0.0 0.05 0.2 0.2
    """
    warmup_steps = require_warmup(peak_value, warmup_steps, init_value)
    require_positive("power", power)
    return PolynomialWarmup(peak_value, warmup_steps, init_value, power)
