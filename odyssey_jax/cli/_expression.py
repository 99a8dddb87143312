"""A schedule from text: the names of our schedules, numbers, lists and arithmetic; nothing else.

The text is parsed as Python and its tree walked; nothing is passed to `eval`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import operator
import typing
from collections.abc import Callable
from typing import Any

import odyssey_jax.schedules as library
from odyssey_jax.cli._output import near
from odyssey_jax.schedules import Schedule

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
# 10**10**10 would take all of the memory.
_GREATEST_POWER = 64

_LENGTHS = {"epochs", "tokens", "fraction"}


def parse(text: str) -> Schedule:
    """Return the schedule that a text describes.

    Args:
        text: Such as "warmup_cosine(0.1, 100, 1_000)", "0.5 * step_decay(0.1, 30)", or the
            `repr` of a schedule.

    Returns:
        The schedule.

    Raises:
        ValueError: If the text is not an expression, contains what is not allowed, or does not
            fit the function that it names.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise ValueError(f"cannot read {_brief(text)!r} as an expression: {reason}.") from None
    try:
        value = _value(tree.body)
    except RecursionError:
        raise ValueError(f"{_brief(text)!r} is nested too deeply.") from None
    if not isinstance(value, Schedule):
        raise ValueError(f"{_brief(text)!r} is {value!r} and not a schedule.")
    return value


@functools.cache
def names() -> list[str]:
    """Return what may be called: the functions that return a schedule, and the lengths."""
    functions = {name: f for name, f in vars(library).items() if inspect.isfunction(f)}
    kinds = {name: typing.get_type_hints(f).get("return") for name, f in functions.items()}
    schedules = {name for name, kind in kinds.items() if _is_schedule(kind)}
    return sorted(schedules - {"from_callable", "from_python"} | _LENGTHS)


def _is_schedule(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Schedule)


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant):
        if node.value is None or isinstance(node.value, (bool, int, float, str)):
            return node.value
    elif isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    elif isinstance(node, ast.Call):
        return _call(node)
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _combined(node, _OPERATORS[type(node.op)], _value(node.operand))
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _combined(node, _OPERATORS[type(node.op)], _value(node.left), _value(node.right))
    elif isinstance(node, ast.Name):
        raise ValueError(f"{node.id!r} is not called: write {node.id}(...).")
    raise ValueError(
        f"{_source(node)!r} is not allowed: a schedule is written with the names of schedules, "
        "numbers, words in quotes, lists, and + - * / **."
    )


def _call(node: ast.Call) -> Any:
    if not isinstance(node.func, ast.Name):
        raise ValueError(f"{_source(node.func)!r} can't be called: only a schedule's name can.")
    name = node.func.id
    if name not in names():
        nearest = near(name, names())
        known = nearest or f"; there are: {', '.join(names())}."
        raise ValueError(f"there is no schedule named {name!r}{known}")
    if any(isinstance(x, ast.Starred) for x in node.args) or any(
        x.arg is None for x in node.keywords
    ):
        raise ValueError(f"* and ** are not allowed in {_source(node)!r}.")
    arguments = [_value(x) for x in node.args]
    keywords = {str(x.arg): _value(x.value) for x in node.keywords}
    function = getattr(library, name)
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError as error:
        raise ValueError(f"{name} does not take these arguments: {error}.") from None
    try:
        return function(*arguments, **keywords)
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{_source(node)!r} fails: {error}.") from None


def _combined(node: ast.AST, function: Callable[..., Any], *values: Any) -> Any:
    """Return the result of an operation on numbers, lengths and schedules."""
    source = _source(node)
    if any(isinstance(x, (str, list, bool)) or x is None for x in values):
        raise ValueError(f"{source!r} is no arithmetic.")
    if function is operator.pow and not all(
        isinstance(x, (int, float)) and abs(x) <= limit
        for x, limit in zip(values, (1e9, _GREATEST_POWER), strict=True)
    ):
        raise ValueError(f"{source!r} is too great a power.")
    try:
        return function(*values)
    except (TypeError, ArithmeticError) as error:
        raise ValueError(f"{source!r} fails: {error}.") from None


def _source(node: ast.AST) -> str:
    return _brief(ast.unparse(node))


def _brief(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
