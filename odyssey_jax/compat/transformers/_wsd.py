"""Warm-up, stable, decay."""

from __future__ import annotations

import warnings
from typing import Any

from odyssey_jax.compat._arguments import known, per_group, require, require_fresh, whole
from odyssey_jax.compat.transformers._warmup import waves
from odyssey_jax.schedules import (
    Schedule,
    constant,
    cosine_warmup,
    join,
    linear,
    linear_warmup,
    shift,
    sqrt_decay,
    sqrt_warmup,
)

_WARMUPS = {"linear": linear_warmup, "cosine": cosine_warmup, "1-sqrt": sqrt_warmup}
_DECAYS = ("linear", "cosine", "1-sqrt")


def get_wsd_schedule(
    base_lr: Any,
    num_warmup_steps: Any,
    num_decay_steps: Any,
    num_training_steps: Any = None,
    num_stable_steps: Any = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: Any = 0,
    num_cycles: Any = 0.5,
    last_epoch: int = -1,
) -> Any:
    """Up to the rate, stable, and down, as `transformers.get_wsd_schedule`.

    It is `join` of a warm-up, a constant, a decay and the floor. The warm-up starts from the
    floor, and not from 0. Where the phases are longer than the training, the decay is already
    under way when the warm-up ends.

    Args:
        base_lr: The rate of the optimizer, or one for each group of parameters.
        num_warmup_steps: Steps up; a whole number, at least 0.
        num_decay_steps: Steps down; a whole number, at least 0.
        num_training_steps: Steps in all; a whole number.
        num_stable_steps: Steps between up and down, in place of `num_training_steps`, which is
            not used (and a warning given) where both are there.
        warmup_type: "linear", "cosine" or "1-sqrt".
        decay_type: "linear", "cosine" or "1-sqrt".
        min_lr_ratio: The floor as a part of the rate; at least 0.
        num_cycles: Turns of the "cosine" decay.
        last_epoch: -1.

    Returns:
        A schedule, or a tuple of them.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> schedule = transformers.get_wsd_schedule(
        ...     base_lr=0.8, num_warmup_steps=10, num_stable_steps=80, num_decay_steps=20
        ... )
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 89, 100, 110)]
        [0.4, 0.8, 0.8, 0.4, 0.0]
    """
    require_fresh(last_epoch)
    warmup = whole("num_warmup_steps", num_warmup_steps)
    fall = whole("num_decay_steps", num_decay_steps)
    stable = _stable_steps(num_stable_steps, num_training_steps, warmup, fall)
    require(_WARMUPS.__contains__, "warmup_type", warmup_type, _words(_WARMUPS))
    require(_DECAYS.__contains__, "decay_type", decay_type, _words(_DECAYS))
    require(lambda x: x >= 0, "min_lr_ratio", min_lr_ratio, "at least 0")

    def build(lr: Any) -> Schedule:
        floor = lr * min_lr_ratio
        pieces: list[Schedule] = [_WARMUPS[warmup_type](lr, warmup, floor)]
        decay = _decay(decay_type, lr, fall, floor, num_cycles)
        end = warmup + stable + fall
        if known(stable) and stable < 0:  # the decay has begun before the warm-up is over
            pieces += [shift(decay, stable), constant(floor)]
            return join(pieces, [warmup, max(end, warmup)])
        pieces += [constant(lr), decay, constant(floor)]
        return join(pieces, [warmup, warmup + stable, end])

    return per_group(base_lr, build)


def _stable_steps(stable: Any, total: Any, warmup: Any, fall: Any) -> Any:
    if stable is None and total is None:
        raise ValueError(
            "num_training_steps or num_stable_steps must be given; got neither of them."
        )
    if stable is None:
        return whole("num_training_steps", total) - warmup - fall
    if total is not None:
        warnings.warn(
            "Both num_training_steps and num_stable_steps are given; num_stable_steps is used.",
            stacklevel=3,
        )
    return whole("num_stable_steps", stable)


def _decay(kind: str, lr: Any, steps: Any, floor: Any, num_cycles: Any) -> Schedule:
    if kind == "linear":
        return linear(lr, floor, steps)
    if kind == "1-sqrt":
        return sqrt_decay(lr, steps, floor)
    return waves(lr, floor, steps, num_cycles)


def _words(words: Any) -> str:
    return "one of " + ", ".join(map(repr, words))
