"""Metadata as strict JSON and back: what JSON has no word for is spelled out."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from odyssey_jax.store._errors import CheckpointError

_FLOAT = "__float__"  # {"__float__": "nan"}: a number that JSON cannot write
_ITEMS = "__items__"  # {"__items__": [[k, v], ...]}: a mapping that JSON cannot write


def encode(value: Any, where: str = "metadata") -> Any:
    """Turns a value into one that strict JSON can hold.

    Non-finite floats and mappings whose keys are not strings are spelled out and come back
    as they were; numpy and jax scalars come back as Python's, arrays and tuples as lists.

    Args:
        value: None, bool, int, float, str, numpy or jax scalars and arrays, and lists,
            tuples and mappings of those.
        where: What to call the value in an error.

    Returns:
        The same in None, bool, int, finite float, str, list and dict.

    Raises:
        CheckpointError: A value is of another type; the message names where it is.

    Example:
        >>> encode({"loss": float("nan"), "shape": (2, 3)})
        {'loss': {'__float__': 'nan'}, 'shape': [2, 3]}
        >>> decode(encode({1: float("-inf")}))
        {1: -inf}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        _check_digits(value, where)
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: repr(float(value))}
    if isinstance(value, Mapping):
        plain = all(isinstance(key, str) for key in value)
        if plain and value.keys() not in ({_FLOAT}, {_ITEMS}):
            return {str(k): encode(v, f"{where}[{k!r}]") for k, v in value.items()}
        items = [(k, v, f"{where}[{k!r}]") for k, v in value.items()]
        return {_ITEMS: [[encode(k, at), encode(v, at)] for k, v, at in items]}
    if isinstance(value, list | tuple):
        return [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        array = np.asarray(value)
        plain = array.dtype.kind in "biufV" and array.dtype.names is None
        if plain and array.dtype.type is not np.longdouble:
            return encode(array.tolist(), where)
    raise CheckpointError(
        f"{where} is {value!r} ({type(value).__name__}), which JSON cannot hold; "
        "give a number, a string, None, or lists and mappings of those"
    )


def _check_digits(value: int, where: str) -> None:
    """Refuses a number that Python would not write, or read again."""
    limit = sys.get_int_max_str_digits()  # 0 is none
    if limit and value.bit_length() > 3 * limit and abs(value) >= 10**limit:
        raise CheckpointError(
            f"{where} is an integer of {value.bit_length()} bits, and Python writes none of more "
            f"than {limit} digits; give its bytes as an array of uint8"
        )


def decode(value: Any) -> Any:
    """Undoes `encode`.

    Args:
        value: What `encode` returned, or `json.loads` of it.

    Returns:
        The value, with tuples as lists.

    Example:
        >>> decode({"best": {"__float__": "inf"}})
        {'best': inf}
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_FLOAT}:
        return float(value[_FLOAT])
    if value.keys() == {_ITEMS}:
        return {hashable(decode(k)): decode(v) for k, v in value[_ITEMS]}
    return {key: decode(item) for key, item in value.items()}


def hashable(key: Any) -> Any:
    """A decoded key as it was, with tuples for lists."""
    return tuple(hashable(item) for item in key) if isinstance(key, list) else key


def dumps(value: Any) -> str:
    """Writes an encoded value as JSON, and refuses what is not strict.

    Args:
        value: What `encode` returned.

    Returns:
        JSON text.

    Example:
        >>> dumps(encode({"loss": float("inf")}))
        '{"loss": {"__float__": "inf"}}'
    """
    return json.dumps(value, allow_nan=False)
