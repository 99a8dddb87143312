"""Values at steps: constant from each to the next, or led from each to the next by a curve."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from ._base import Schedule, builds
from ._check import require_boundaries, require_choice, require_finite, require_sequence
from ._cosine import cosine
from ._linear import line
from ._moment import Moment, phase
from ._node import node
from ._table import piece_at, row, start_of, table_of_starts, table_of_values

Interpolation = Literal["linear", "cosine"]
_CURVES = {"linear": line, "cosine": cosine}


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PiecewiseConstant(Schedule):
    """A table of values; see `piecewise_constant`."""

    values: Any
    boundaries: Any

    def prepared(self) -> PiecewiseConstant:
        """The numbers as tables."""
        return PiecewiseConstant(table_of_values(self.values), table_of_starts(self.boundaries))

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        tables = self.prepared()
        return row(tables.values, piece_at(now, tables.boundaries))


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PiecewiseInterpolate(Schedule):
    """A table of values and a curve between them; see `piecewise_interpolate`."""

    values: Any
    boundaries: Any
    interpolation: str = dataclasses.field(metadata={"static": True})

    def prepared(self) -> PiecewiseInterpolate:
        """The numbers as tables."""
        values, starts = table_of_values(self.values), table_of_starts(self.boundaries)
        return PiecewiseInterpolate(values, starts, self.interpolation)

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        tables = self.prepared()
        piece = piece_at(now, tables.boundaries)
        # The last piece has a length of 0, and so is over at once: its value stays.
        following = jnp.minimum(piece + 1, jnp.shape(tables.values)[0] - 1)
        start = start_of(piece, tables.boundaries)
        total = start_of(following, tables.boundaries).minus(start)
        curve = _CURVES[self.interpolation]
        where = phase(now.minus(start), total)
        return curve(where, row(tables.values, piece), row(tables.values, following))


def _require_pieces(values: Any, boundaries: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    values = require_sequence("values", values)
    if not values:
        raise ValueError("values must be at least one number; got values = [].")
    for value in values:
        require_finite("values", value)
    return values, require_boundaries(boundaries, len(values), "values")


@builds(PiecewiseConstant)
def piecewise_constant(values: Sequence[Any], boundaries: Sequence[Any]) -> PiecewiseConstant:
    r"""Keep one value after another.

    $$f(t) = v_i, \qquad b_i \le t < b_{i+1}, \quad b_0 = 0$$

    A boundary step belongs to the next value. Boundaries may be equal, or 0: the values between
    them are skipped. They count from the start of this schedule: a warm-up joined before it is
    excluded. The last value goes on for ever. The cost of a step is one look-up, however many.

    Args:
        values: The values $v_i$, at least one; each finite.
        boundaries: The steps $b_i$ at which the second and each later value begins; one fewer
            than the values, sorted, each in [0, 2**31 - 1].

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If a value is not finite, or the boundaries are unsorted, too few or too
            many.

    Source:
        `optax.piecewise_constant_schedule`, which takes factors in place of values.

    Example:
        >>> from odyssey_jax.schedules import piecewise_constant
        >>> schedule = piecewise_constant([0.1, 0.5, 0.2], boundaries=[10, 20])
        >>> print(schedule(9), schedule(10), schedule(20))
        0.1 0.5 0.2
    """
    return PiecewiseConstant(*_require_pieces(values, boundaries))


@builds(PiecewiseInterpolate)
def piecewise_interpolate(
    values: Sequence[Any], boundaries: Sequence[Any], interpolation: Interpolation = "linear"
) -> PiecewiseInterpolate:
    r"""Go from one value to the next, along lines or half cosines.

    $$f(t) = c\left(v_i, v_{i+1}, \frac{t - b_i}{b_{i+1} - b_i}\right),
      \qquad b_i \le t < b_{i+1}, \quad b_0 = 0$$

    Each value is reached at its boundary to the bit, the last one is held from there on.
    Boundaries may be equal: the curve jumps there, past the values between them. They count
    from the start of this schedule: a warm-up joined before it is excluded. The cost of a step
    is that of one piece, however many.

    Args:
        values: The value $v_0$ at step 0, and the values $v_i$ at the boundaries; each finite.
        boundaries: The steps $b_i$ at which the second and each later value is reached; one
            fewer than the values, sorted, each in [0, 2**31 - 1].
        interpolation: The curve $c$: `"linear"` or `"cosine"`.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If a value is not finite, or the boundaries are unsorted, too few or too
            many.

    Source:
        `optax.piecewise_interpolate_schedule`, which takes factors in place of values.

    Example:
        >>> from odyssey_jax.schedules import piecewise_interpolate
        >>> schedule = piecewise_interpolate([0.0, 0.4, 0.1], boundaries=[10, 30])
        >>> print(schedule(5), schedule(10), schedule(20), schedule(40))
        0.2 0.4 0.25 0.1
    """
    require_choice("interpolation", interpolation, get_args(Interpolation))
    boundaries = require_sequence("boundaries", boundaries)
    values, _ = _require_pieces(values, boundaries)
    # Of the types that they have: what is computed may be whole or not, and is one program.
    return PiecewiseInterpolate(values, boundaries, interpolation)
