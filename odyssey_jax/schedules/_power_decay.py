"""Decay as any negative power of the time."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from ._base import Schedule, builds
from ._check import require_finite, require_positive, require_unit
from ._moment import Moment, length
from ._node import node
from ._numbers import pair, real
from ._power import power


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PowerDecay(Schedule):
    """A negative power; see `power_decay`."""

    init_value: Any
    timescale: Any
    power: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        # In units of two steps, as the sum can be more than 2^31 - 1.
        scale = length(self.timescale).half()
        share = power(scale.pair(), pair(self.power), now.half().plus(scale).pair())
        return real(self.init_value) * share


@builds(PowerDecay)
def power_decay(init_value: Any, timescale: Any, power: Any) -> PowerDecay:
    r"""Decay as a negative power of the time.

    $$f(t) = v_0 \left(1 + \frac{t}{s}\right)^{-p}$$

    With $p = 1/2$ it is `inverse_sqrt`, with $p = 1$ `inverse_time_decay`, each of which costs
    less. There is no end: the curve goes on towards 0. Steps count from the start of this
    schedule: joined to a warm-up of $s$ steps, it is $v_0 (s / t)^p$ with $t$ counted from the
    start of that.

    Args:
        init_value: The value $v_0$ at step 0; scalar, finite.
        timescale: The steps $s$ after which the value is $v_0 / 2^p$; scalar, in
            [1, 2**31 - 1].
        power: The exponent $p$; scalar, above 0.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Shen et al., "Power Scheduler: A Batch Size and Token Number Agnostic Learning Rate
        Scheduler" (2024), whose power law it is.

    Example:
        >>> from odyssey_jax.schedules import power_decay
        >>> schedule = power_decay(0.1, timescale=100, power=2.0)
        >>> print(schedule(0), schedule(100), schedule(900))
        0.1 0.025 0.001
    """
    require_finite("init_value", init_value)
    timescale = require_unit("timescale", timescale)
    require_positive("power", power)
    return PowerDecay(init_value, timescale, power)
