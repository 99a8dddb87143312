"""Schedules by the names that transformers' training arguments have for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from odyssey_jax.compat._arguments import require
from odyssey_jax.compat.transformers._metric import (
    get_greedy_schedule,
    get_reduce_on_plateau_schedule,
)
from odyssey_jax.compat.transformers._warmup import (
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_hard_restarts_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)
from odyssey_jax.compat.transformers._wsd import get_wsd_schedule

TYPE_TO_SCHEDULER_FUNCTION: dict[str, Callable[..., Any]] = {
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
    "cosine_with_restarts": get_cosine_with_hard_restarts_schedule_with_warmup,
    "polynomial": get_polynomial_decay_schedule_with_warmup,
    "constant": get_constant_schedule,
    "constant_with_warmup": get_constant_schedule_with_warmup,
    "inverse_sqrt": get_inverse_sqrt_schedule,
    "reduce_lr_on_plateau": get_reduce_on_plateau_schedule,
    "cosine_with_min_lr": get_cosine_with_min_lr_schedule_with_warmup,
    "cosine_warmup_with_min_lr": get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    "warmup_stable_decay": get_wsd_schedule,
    "greedy": get_greedy_schedule,
}
"""The functions by name."""

# What each is called with, besides the rate and what is specific to it.
_USES_NOTHING = ("constant", "reduce_lr_on_plateau", "greedy")
_USES_WARMUP = ("constant_with_warmup", "inverse_sqrt")
_TAKES_NOTHING_MORE = ("constant", "constant_with_warmup")


def get_scheduler(
    name: str,
    base_lr: Any,
    num_warmup_steps: Any = None,
    num_training_steps: Any = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """A schedule by its name, as `transformers.get_scheduler`.

    As there, a schedule that does not use the warm-up or the length of the training is not given
    them; what is in `scheduler_specific_kwargs` is never left out.

    Args:
        name: One of the words in `TYPE_TO_SCHEDULER_FUNCTION`.
        base_lr: The rate of the optimizer, or one for each group of parameters.
        num_warmup_steps: Steps of the warm-up.
        num_training_steps: Steps in all.
        scheduler_specific_kwargs: The other arguments of the schedule.

    Returns:
        What the function of that name gives.

    Raises:
        ValueError: If there is no such name, or a number of steps is missing.

    Example:
        >>> from odyssey_jax.compat import transformers
        >>> transformers.get_scheduler("constant_with_warmup", base_lr=0.1, num_warmup_steps=10)
        linear_warmup(peak_value=0.1, warmup_steps=10)
    """
    name = getattr(name, "value", name)  # transformers' own enumeration has the word as its value
    names = ", ".join(map(repr, TYPE_TO_SCHEDULER_FUNCTION))
    require(TYPE_TO_SCHEDULER_FUNCTION.__contains__, "name", name, f"one of {names}")
    given: dict[str, Any] = dict(scheduler_specific_kwargs or {})
    if given and name in _TAKES_NOTHING_MORE:
        raise ValueError(
            f"scheduler_specific_kwargs must be left out for {name!r}; got "
            f"scheduler_specific_kwargs = {given!r}."
        )
    if name not in _USES_NOTHING:
        _require_steps(name, "num_warmup_steps", num_warmup_steps)
        given["num_warmup_steps"] = num_warmup_steps
        if name not in _USES_WARMUP:
            if name != "warmup_stable_decay":
                _require_steps(name, "num_training_steps", num_training_steps)
            given["num_training_steps"] = num_training_steps
    return TYPE_TO_SCHEDULER_FUNCTION[name](base_lr, **given)


def _require_steps(name: str, argument: str, value: Any) -> None:
    require(lambda x: x is not None, argument, value, f"given for {name!r}")
