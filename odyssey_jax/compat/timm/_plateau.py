"""A rate that is cut when a metric stops improving, after a warm-up, with noise."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from odyssey_jax.compat._arguments import is_sequence, known
from odyssey_jax.compat._metric import MetricSchedule
from odyssey_jax.compat.timm._noise import Noise
from odyssey_jax.compat.torch import ReduceLROnPlateau
from odyssey_jax.schedules import Schedule, linear_warmup


class PlateauState(NamedTuple):
    """The state of `PlateauLRScheduler`.

    Args:
        rule: The state of `reduce_on_plateau`.
        epoch: int32 scalar, the values so far.
    """

    rule: Any
    epoch: jax.Array


@dataclasses.dataclass(frozen=True)
class PlateauSchedule:
    """A rate that is warmed up and then follows a metric: pure functions.

    Attributes:
        plateau: What `compat.torch.ReduceLROnPlateau` gave.
        warmup: The warm-up, a schedule of the epoch.
        warmup_t: Its length.
        noise: The noise, a factor for each epoch; None where there is none.
    """

    plateau: MetricSchedule
    warmup: Schedule
    warmup_t: Any
    noise: Schedule | None

    def init(self) -> PlateauState:
        """Makes the state of a scheduler that has seen no value."""
        return PlateauState(self.plateau.init(), jnp.zeros((), jnp.int32))

    def update(self, state: PlateauState, value: Any) -> PlateauState:
        """Takes the state past an epoch's metric, which does not count during the warm-up."""
        epoch = state.epoch + 1
        judged = self.plateau.update(state.rule, value)
        warm = epoch > self.warmup_t
        rule = jax.tree.map(lambda new, old: jnp.where(warm, new, old), judged, state.rule)
        return PlateauState(rule, epoch)

    def lr(self, state: PlateauState) -> jax.Array:
        """The rate in force; float32 scalar."""
        rate = self.plateau.lr(state.rule)
        if self.noise is not None:
            rate = rate * self.noise(state.epoch)
        return jnp.where(state.epoch > self.warmup_t, rate, self.warmup(state.epoch))


def PlateauLRScheduler(
    base_lr: Any,
    decay_rate: Any = 0.1,
    patience_t: Any = 10,
    threshold: Any = 1e-4,
    cooldown_t: Any = 0,
    warmup_t: Any = 0,
    warmup_lr_init: Any = 0.0,
    lr_min: Any = 0.0,
    mode: str = "max",
    noise_range_t: Any = None,
    noise_type: str = "normal",
    noise_pct: Any = 0.67,
    noise_std: Any = 1.0,
    noise_seed: Any = None,
) -> Any:
    """The rate times `decay_rate` on a plateau, as `timm.scheduler.PlateauLRScheduler`.

    It is `compat.torch.ReduceLROnPlateau` after a `linear_warmup`; values seen during the warm-up
    do not count. Epochs count from 1 at the first value, as timm's own training script has them.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        decay_rate: The factor of a cut; in [0, 1).
        patience_t: Bad values that are put up with; a whole number, at least 0.
        threshold: What an improvement has to exceed, as a share of the best value; at least 0.
        cooldown_t: Values after a cut that are never bad; a whole number, at least 0.
        warmup_t: Epochs of the warm-up; at least 0.
        warmup_lr_init: The rate at its start.
        lr_min: The least rate, or one for each group.
        mode: Whether "min" or "max" is better.
        noise_range_t: The epoch from which there is noise, or that and the one where it ends.
        noise_type: "normal" or "uniform".
        noise_pct: The bound of the noise.
        noise_std: Its deviation.
        noise_seed: Its seed, None for 42: the numbers are timm's own.

    Returns:
        An object with `init() -> state`, `update(state, value) -> state` and `lr(state)`, or a
        tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import timm
        >>> plateau = timm.PlateauLRScheduler(base_lr=0.8, decay_rate=0.5, patience_t=1, warmup_t=2)
        >>> state = plateau.init()
        >>> for accuracy in [0.1, 0.2, 0.3, 0.3, 0.3]:
        ...     state = plateau.update(state, accuracy)
        ...     print(plateau.lr(state), end=" ")
        0.4 0.8 0.8 0.8 0.4
    """
    plateaus = ReduceLROnPlateau(
        base_lr,
        mode=mode,
        factor=decay_rate,
        patience=patience_t,
        threshold=threshold,
        cooldown=cooldown_t,
        min_lr=lr_min,
    )
    noise = Noise(noise_range_t, noise_pct, noise_std, noise_seed, noise_type).factor()

    def build(lr: Any, plateau: Any) -> PlateauSchedule:
        start = lr if known(warmup_t) and warmup_t == 0 else warmup_lr_init
        return PlateauSchedule(plateau, linear_warmup(lr, warmup_t, start), warmup_t, noise)

    if not is_sequence(base_lr):
        return build(base_lr, plateaus)
    return tuple(build(lr, plateau) for lr, plateau in zip(base_lr, plateaus, strict=True))
