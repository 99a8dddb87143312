"""What the libraries share: docstrings, groups of parameters, checks, metric schedules."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
from jax.core import Tracer

from odyssey_jax.schedules import MetricRule, Schedule, from_python

_Function = TypeVar("_Function", bound=Callable[..., Any])

LAST_STEP = 2**31 - 1
SCHEDULE = "A schedule, or a tuple of them."
METRIC_SCHEDULE = (
    "An object with `init() -> state`, `update(state, value) -> state` and `lr(state)`, or a\n"
    "    tuple of them."
)
_ARGUMENTS = {
    "base_lr": "The rate of the optimizer, or one for each group of parameters.",
    "last_epoch": "-1.",
    # of those that follow a metric
    "mode": 'Whether "min" or "max" is better.',
    "factor": "The factor of a cut; in [0, 1).",
    "patience": "Bad values that are put up with; a whole number, at least 0.",
    "threshold": "What an improvement has to exceed; at least 0.",
    "threshold_mode": '"rel" for a share of the best value, "abs" for the difference itself.',
    "cooldown": "Values after a cut that are never bad; a whole number, at least 0.",
    "min_lr": "The least rate, or one for each group.",
    "eps": "A change by no more than this is left out.",
}
_SECTION = re.compile(r"^(Args|Returns|Raises|Source|Example):\n", re.MULTILINE)
_ENTRY = re.compile(r"^    \**(\w+): ", re.MULTILINE)


def documented(
    arguments: Mapping[str, str], source: str, returns: str = SCHEDULE
) -> Callable[[_Function], _Function]:
    """Complete a docstring: every argument, what comes back, errors, source, the example's import.

    Args:
        arguments: What arguments mean that the docstring does not explain itself.
        source: The module of the library, which has the function under the same name.
        returns: What comes back.

    Returns:
        A decorator that gives the same function back.

    Raises:
        KeyError: If an argument is explained nowhere.
    """

    def complete(function: _Function) -> _Function:
        if function.__doc__ is None:  # python -OO
            return function
        head, *parts = _SECTION.split(inspect.cleandoc(function.__doc__))
        own = dict(zip(parts[::2], parts[1::2], strict=True))
        _, *entries = _ENTRY.split(own.pop("Args", ""))
        explained = dict(zip(entries[::2], entries[1::2], strict=True))
        meaning = {**_ARGUMENTS, **arguments, **explained}
        args = ""
        for name, parameter in inspect.signature(function).parameters.items():
            shown = parameter.replace(annotation=parameter.empty, default=parameter.empty)
            args += f"    {shown}: {meaning[name].rstrip()}\n"
        room = function.__module__.rpartition(".")[2]
        own["Example"] = f"    >>> from odyssey_jax.compat import {room}\n{own['Example']}"
        sections = {
            "Args": args,
            "Returns": f"    {returns}",
            "Raises": "    ValueError: If an argument is outside its range.",
            "Source": f"    `{source}.{function.__name__}`.",
            **own,
        }
        function.__doc__ = head + "\n\n".join(f"{k}:\n{x.rstrip()}" for k, x in sections.items())
        return function

    return complete


def scheduler(
    arguments: Mapping[str, str],
    source: str,
    *grouped: str,
    split: bool = True,
    returns: str = SCHEDULE,
) -> Callable[[_Function], _Function]:
    """Make a public scheduler of a function of one rate.

    Its docstring is completed, a sequence as `base_lr` gives a tuple (one schedule for each group
    of parameters), and a `last_epoch` other than -1, or a flag
    that is neither True nor False, is refused.

    Args:
        arguments: What arguments mean that the docstring does not explain itself.
        source: The module of the library, which has the function under the same name.
        *grouped: Arguments that may have a value for each group as well.
        split: Whether the function takes one rate; False if it sees to the groups itself.
        returns: What comes back.

    Returns:
        A decorator.
    """

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)

        @functools.wraps(documented(arguments, source, returns)(function))
        def build(*args: Any, **kwargs: Any) -> Any:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            defaults = {name: signature.parameters[name].default for name in given}
            require_flags(**{k: x for k, x in given.items() if isinstance(defaults[k], bool)})
            if given.get("last_epoch", -1) != -1:
                raise ValueError(
                    "last_epoch must be -1: the step is an argument here, and a resumed run "
                    f"passes its own; got last_epoch = {given['last_epoch']!r}."
                )
            if not split:
                return function(**given)
            # An iterator is read once for each group.
            given = {k: list(x) if isinstance(x, Iterator) else x for k, x in given.items()}
            base_lr = given.pop("base_lr")
            columns = {name: given.pop(name) for name in grouped if name in given}
            return per_group(base_lr, functools.partial(function, **given), **columns)

        return build  # pyright: ignore[reportReturnType]

    return decorate


def is_sequence(x: Any) -> bool:
    """Return whether an argument is one value for each group of parameters."""
    return isinstance(x, (list, tuple))


def per_group(base_lr: Any, build: Callable[..., Any], **arguments: Any) -> Any:
    """Return `build(rate, **arguments)` for the rate, or a tuple of it for each group's rate.

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
    """Return an argument as one value for each group."""
    if not is_sequence(x):
        return (x,) * groups
    if len(x) != groups:
        raise ValueError(
            f"{name} must have one value for each group of parameters, or be one for all: "
            f"base_lr has {groups}, {name} has {len(x)}; got {name} = {x!r}."
        )
    return tuple(x)


def known(*values: Any) -> bool:
    """Return whether numbers can be looked at: none of them is being traced."""
    return not any(isinstance(x, Tracer) for x in values)


def equals(value: Any, number: Any) -> bool:
    """Return whether a number is known, and this one."""
    return known(value) and value == number


def require(condition: Any, name: str, value: Any, accepted: str) -> None:
    """Raise ValueError unless a value meets a condition; a traced value is not looked at."""
    if known(value) and not condition(value):
        raise ValueError(f"{name} must be {accepted}; got {name} = {value!r}.")


def require_flags(**values: Any) -> None:
    """Raise ValueError unless the values, by name, are True or False."""
    for name, value in values.items():
        require(lambda x: isinstance(x, bool), name, value, "True or False")


def require_positive(**values: Any) -> None:
    """Raise ValueError unless the values, by name, are above 0."""
    for name, value in values.items():
        require(lambda x: x > 0, name, value, "above 0")


def require_not_negative(**values: Any) -> None:
    """Raise ValueError unless the values, by name, are at least 0."""
    for name, value in values.items():
        require(lambda x: x >= 0, name, value, "at least 0")


def require_word(words: Any, name: str, value: Any, more: str = "") -> None:
    """Raise ValueError unless a value is one of some words."""
    *most, last = map(repr, words)
    require(tuple(words).__contains__, name, value, f"{', '.join(most)} or {last}{more}")


def whole(name: str, value: Any, least: int = 0) -> Any:
    """Return a number of steps as an int; raise ValueError unless it is whole, and `least`."""
    if not known(value):
        return value
    try:
        is_whole = not isinstance(value, bool) and int(value) == value
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole or value < least:
        raise ValueError(
            f"{name} must be a whole number of at least {least}; got {name} = {value!r}."
        )
    return int(value)


def as_python(name: str, function: Any, accepted: str = "a function") -> Schedule:
    """Return a function that a peer would call with the step as a schedule: on the host."""
    require(callable, name, function, accepted)
    return function if isinstance(function, Schedule) else from_python(function)


@dataclasses.dataclass(frozen=True)
class MetricSchedule:
    """A rate that follows a metric: pure functions, for `jit`, `scan` and `vmap`.

    Attributes:
        rule: What `reduce_on_plateau` or `greedy` gave: the rate is its scale.
        group: Which group of parameters, or None where there is but one rate. The schedules of
            several groups have one rule, and a state of any of them is one of all.
    """

    rule: MetricRule
    group: int | None = None

    def init(self) -> Any:
        """Return the state of a scheduler that has seen no value."""
        return self.rule.init()

    def update(self, state: Any, value: Any) -> Any:
        """Return the state after a value of the metric; a real scalar."""
        return self.rule.update(state, value)

    def lr(self, state: Any) -> jax.Array:
        """Return the rate in force; float32 scalar."""
        return state.scale if self.group is None else state.scale[self.group]


def metric_schedules(
    base_lr: Any, rule: Callable[..., Any], min_lr: Any, max_lr: Any = None
) -> Any:
    """Return a schedule by the rule, or one for each group of parameters.

    The peers begin with the rate they are given, whatever its bounds, and so do these; a rule of
    ours can't be built that way.
    """
    wide = is_sequence(base_lr)
    groups = len(base_lr) if wide else 1

    def each(name: str, x: Any) -> Any:
        values = group_values(name, x, groups) if is_sequence(x) else x
        return values if wide or not is_sequence(x) else values[0]

    bounds = {"min_scale": each("min_lr", min_lr)}
    if max_lr is not None:
        bounds["max_scale"] = each("max_lr", max_lr)
    first = base_lr
    if all(isinstance(x, (int, float)) for x in (base_lr, *bounds.values())) and base_lr >= 0:
        first = min(max(base_lr, bounds["min_scale"]), bounds.get("max_scale", math.inf))
    built = rule(init_scale=first, **bounds)
    built = dataclasses.replace(built, init_scale=tuple(base_lr) if wide else base_lr)
    return tuple(MetricSchedule(built, i) for i in range(groups)) if wide else MetricSchedule(built)


def margins(threshold: Any, threshold_mode: str) -> dict[str, Any]:
    """Return a threshold, relative or absolute, as a rule of ours takes it."""
    require_word(("rel", "abs"), "threshold_mode", threshold_mode)
    relative = threshold_mode == "rel"
    return {
        "rtol": threshold if relative else 0.0,
        "atol": 0.0 if relative else threshold,
        "relative_to": "value",
    }
