"""The rate that does not change."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from ._base import Schedule, builds
from ._check import require_finite
from ._moment import Moment
from ._node import node
from ._numbers import real


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Constant(Schedule):
    """`v` at every step; see `constant`."""

    steady = True

    value: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        del now
        return real(self.value)


@builds(Constant)
def constant(value: Any) -> Constant:
    r"""Keep one value for ever.

    $$f(t) = v$$

    There is no end: a warm-up before it is joined to it (see `join`).

    Args:
        value: The value $v$; scalar, finite.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If the value is not a finite number.

    Source:
        `torch.optim.lr_scheduler.ConstantLR` with factor 1, `optax.constant_schedule`.

    Example:
        >>> from odyssey_jax.schedules import constant
        >>> print(constant(0.1)(1_000))
        0.1
    """
    require_finite("value", value)
    return Constant(value)
