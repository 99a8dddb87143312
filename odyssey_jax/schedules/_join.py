"""One schedule after another.

The pieces are grouped by their structure, and the numbers of a group are stacked into tables.
The cost of a step is then one look-up and one formula for each kind of piece, not for each
piece.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._base import Schedule, builds
from ._callable import as_schedules
from ._check import require_boundaries
from ._moment import Moment, select
from ._node import node
from ._numbers import Wide, canonical
from ._table import piece_at, row, stack, start_of, table_of_starts


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Group(Schedule):
    """Pieces of one kind: a schedule whose leaves are tables, one row a piece.

    Attributes:
        table: The kind of piece, its leaves stacked along axis 0.
        single: Whether there is but one: its leaves are then not stacked.
        slots: For each piece of the join, its row here, or -1.
    """

    table: Schedule
    single: bool = dataclasses.field(metadata={"static": True})
    slots: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def owns(self, piece: jax.Array) -> jax.Array:
        """Whether the piece of each step is in this group."""
        if self.single:
            return piece == self.slots.index(0)
        return row(np.asarray(self.slots) >= 0, piece)

    def pick(self, piece: jax.Array) -> Schedule:
        """The schedule of each step: the leaves have the steps' shape."""
        if self.single:
            return self.table
        rows = row(np.maximum(self.slots, 0).astype(np.int32), piece)
        return jax.tree.map(lambda leaf: row(leaf, rows), self.table)


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Joined(Schedule):
    """A join as it is evaluated: groups, and a table of the steps at which the pieces start."""

    groups: tuple[Group, ...]
    starts: Any

    def prepared(self) -> Joined:
        """It is."""
        return self

    def at(self, now: Moment) -> jax.Array:
        """One formula for each group, the others' steps masked so that no NaN comes of them."""
        piece = piece_at(now, self.starts)
        local = now.minus(start_of(piece, self.starts))
        result = jnp.zeros((), jnp.float32)
        for group in self.groups:
            if len(self.groups) == 1:
                return group.pick(piece).at(local)
            mine = group.owns(piece)
            step = select(mine, local, Moment(jnp.zeros_like(local.whole)))
            result = jnp.where(mine, group.pick(piece).at(step), result)
        return result


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Join(Schedule):
    """Pieces and boundaries as they were given; see `join`."""

    schedules: tuple[Schedule, ...]
    boundaries: tuple[Any, ...]

    def prepared(self) -> Joined:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The pieces by group."""
        members: dict[Any, list[int]] = {}
        pieces = [jax.tree.map(canonical, piece, is_leaf=_is_wide) for piece in self.schedules]
        for index, piece in enumerate(pieces):
            leaves, treedef = jax.tree.flatten(piece)
            members.setdefault((treedef, tuple(leaf.dtype for leaf in leaves)), []).append(index)
        groups = []
        for indices in members.values():
            slots = [-1] * len(pieces)
            for slot, index in enumerate(indices):
                slots[index] = slot
            rows = [pieces[index] for index in indices]
            single = len(rows) == 1
            table = rows[0].prepared() if single else jax.tree.map(stack, *rows)
            groups.append(Group(table, single, tuple(slots)))
        return Joined(tuple(groups), table_of_starts(self.boundaries))

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        return self.prepared().at(now)


@builds(Join)
def join(schedules: Sequence[Schedule | Callable[[Any], Any]], boundaries: Sequence[Any]) -> Join:
    r"""Follow one schedule after another, each from its own step 0.

    $$f(t) = f_i(t - b_i), \qquad b_i \le t < b_{i+1}, \quad b_0 = 0$$

    A boundary step belongs to the next piece, and no piece sees a negative step. Boundaries may
    be equal, or 0: the pieces between them are skipped. The boundaries count from the start of
    the join, so they include a warm-up that is its first piece; the lengths within the pieces
    count from the start of each. The last piece goes on for ever, with its own rule for past
    its end.

    The cost of a step is one look-up and one formula for each *kind* of piece, however many.

    Args:
        schedules: The pieces, at least one: schedules, or plain functions of the step (see
            `from_callable`).
        boundaries: The steps at which the second and each later piece begins; one fewer than
            the pieces, sorted, each in [0, 2**31 - 1].

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If a piece is not a schedule, or the boundaries are unsorted, too few or too
            many.

    Source:
        `optax.join_schedules`, to which it is equal wherever that is defined.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, join, linear_warmup
        >>> schedule = join([linear_warmup(0.1, 10), cosine_decay(0.1, 90)], [10])
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 55, 100)]
        [0.05, 0.1, 0.05, 0.0]
    """
    pieces = as_schedules("schedules", schedules)
    return Join(pieces, require_boundaries(boundaries, len(pieces)))


def _is_wide(x: Any) -> bool:
    return isinstance(x, Wide)
