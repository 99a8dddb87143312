"""Arguments as the peers take them: for each group of parameters, whole numbers, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from jax.core import Tracer

from odyssey_jax.schedules import Schedule, from_python

_Built = TypeVar("_Built")


def is_sequence(x: Any) -> bool:
    """Whether an argument is one value for each group of parameters."""
    return isinstance(x, (list, tuple))


def per_group(base_lr: Any, build: Callable[..., _Built], **arguments: Any) -> Any:
    """What `build(rate, **arguments)` gives for the rate, or a tuple of it for each group's rate.

    An argument that is a sequence has a value for each group, as many as there are rates.
    """
    rates = base_lr if is_sequence(base_lr) else [base_lr]
    columns = {name: group_values(name, x, len(rates)) for name, x in arguments.items()}
    built = tuple(
        build(rate, **{name: column[i] for name, column in columns.items()})
        for i, rate in enumerate(rates)
    )
    return built if is_sequence(base_lr) else built[0]


def group_values(name: str, x: Any, groups: int) -> tuple[Any, ...]:
    """An argument as one value for each group."""
    if not is_sequence(x):
        return (x,) * groups
    if len(x) != groups:
        raise ValueError(
            f"{name} must have one value for each group of parameters, or be one for all: "
            f"base_lr has {groups}, {name} has {len(x)}; got {name} = {x!r}."
        )
    return tuple(x)


def known(x: Any) -> bool:
    """Whether a number can be looked at: it is not being traced."""
    return not isinstance(x, Tracer)


def require(condition: Any, name: str, value: Any, accepted: str) -> None:
    """Refuse a value, naming what the peer accepts; a traced value is not looked at."""
    if known(value) and not condition(value):
        raise ValueError(f"{name} must be {accepted}; got {name} = {value!r}.")


def whole(name: str, value: Any, least: int = 0) -> Any:
    """A number of steps: a whole number of at least so many."""
    if not known(value):
        return value
    if isinstance(value, bool) or not _is_whole(value) or value < least:
        raise ValueError(
            f"{name} must be a whole number of at least {least}; got {name} = {value!r}."
        )
    return int(value)


def _is_whole(value: Any) -> bool:
    try:
        return int(value) == value
    except (TypeError, ValueError, OverflowError):
        return False


def require_fresh(last_epoch: Any) -> None:
    """Only -1: to start anywhere else has no meaning where the step is an argument."""
    if last_epoch != -1:
        raise ValueError(
            "last_epoch must be -1: the step is an argument here, and a resumed run passes its "
            f"own; got last_epoch = {last_epoch!r}."
        )


def as_python(function: Callable[[Any], Any]) -> Schedule:
    """A function that a peer would call with the step: one of ours as it is, others on the host."""
    return function if isinstance(function, Schedule) else from_python(function)
