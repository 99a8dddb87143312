"""What timm's schedulers share: a linear warm-up, before the curve or over its start, and noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from odyssey_jax.compat._arguments import per_group, require
from odyssey_jax.compat.timm._noise import Noise
from odyssey_jax.schedules import Schedule, join, linear_warmup, shift


@dataclasses.dataclass(frozen=True)
class Warmup:
    """The arguments of timm's schedulers that are about the warm-up."""

    warmup_t: Any
    warmup_lr_init: Any
    warmup_prefix: bool = True

    def into(self, curve: Schedule, peak: Any) -> Schedule:
        """The warm-up to a peak, and then the curve: its start, or what is left of it."""
        rise = linear_warmup(peak, self.warmup_t, self.warmup_lr_init)
        if not self.warmup_prefix:
            curve = shift(curve, -self.warmup_t)
        return join([rise, curve], [self.warmup_t])


def scheduled(
    base_lr: Any,
    curve: Callable[[Any], Schedule],
    warmup: Warmup,
    noise: Noise,
    t_in_epochs: bool,
) -> Any:
    """The curve of each rate, after its warm-up, with its noise."""
    require_unit_of_time(t_in_epochs)
    return per_group(base_lr, lambda lr: noise.on(warmup.into(curve(lr), lr)))


def require_unit_of_time(t_in_epochs: Any) -> None:
    """What a step of the schedule is, an epoch or an update: the schedule is the same."""
    require(lambda x: isinstance(x, bool), "t_in_epochs", t_in_epochs, "True or False")
