"""The rate of the optimizer, as it is found in the schedulers that were built with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from odyssey_jax.compat._arguments import known
from odyssey_jax.compat.torch._lambdas import cumulative
from odyssey_jax.schedules import Schedule

# These have it as the value that they begin with.
_BEGIN = ("cosine_decay", "exponential_decay", "multistep_decay", "polynomial", "step_decay")


def check_rate(base_lr: Any, pieces: Sequence[Schedule]) -> None:
    """Refuse a rate that is not the one with which a scheduler was built, if that shows."""
    for index, piece in enumerate(pieces):
        rate = _first_value(piece)
        if rate is None or not (known(rate) and known(base_lr)):
            continue
        if not np.allclose(rate, base_lr, rtol=1e-6, atol=0.0):
            raise ValueError(
                f"schedulers[{index}] must have been built with the same base_lr as the others, "
                f"{base_lr!r} (or leave base_lr out); got schedulers[{index}] = {piece!r}."
            )


def rate_of(pieces: Sequence[Schedule]) -> Any:
    """The rate with which schedulers that multiply were built."""
    for find in (_first_value, _other_value):
        for piece in pieces:
            rate = find(piece)
            if rate is not None:
                return rate
    raise ValueError(
        "base_lr must be given where no scheduler shows with which rate it was built; got "
        f"schedulers = {list(pieces)!r}."
    )


def _first_value(piece: Schedule) -> Any:
    return getattr(piece, "init_value", None) if piece.name in _BEGIN else None


def _other_value(piece: Schedule) -> Any:
    """Of what might be something else as well, if it isn't from this module."""
    if cumulative(piece) is not None:
        return piece.factor  # pyright: ignore[reportAttributeAccessIssue]
    if piece.name == "product":
        first = piece.schedules[0]  # pyright: ignore[reportAttributeAccessIssue]
        return _first_value(first) or _other_value(first)
    values = getattr(piece, "values", ())
    if piece.name != "piecewise_constant" or len(values) != 2 or not known(values[1]):
        return None
    return values[1] if values[1] != 0 else values[0]  # ConstantLR; StepLR by a factor of 0
