"""Numbers by piece, as tables: a step finds its piece once, and looks its numbers up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import as_schedules, builds, recipe
from odyssey_jax.schedules._fields import checked, field, require_boundaries, require_one_between
from odyssey_jax.schedules._numbers import Wide, canonical, exact
from odyssey_jax.schedules._parts import Part, known_steps, limited, moved
from odyssey_jax.schedules._steps import StepCount, select, step_count
from odyssey_jax.schedules._units import Boundaries, Steps


def stack(*rows: Any) -> Any:
    """Stack rows along a new axis 0, on the host if all of them are there."""
    if any(isinstance(row, jax.Array) for row in rows):
        return jnp.stack(jnp.broadcast_arrays(*map(jnp.asarray, rows)))
    return np.asarray(rows)


def row(table: Any, index: jax.Array) -> jax.Array:
    """Return the row of each step; a table that was itself looked up has their shape."""
    table = jnp.asarray(table)
    if table.ndim == 1:
        return table.at[index].get(mode="promise_in_bounds")
    return jnp.take_along_axis(table, index[None], axis=0)[0]


def table_of_starts(boundaries: Any) -> Any:
    """Return the steps at which the pieces start, 0 first; a table as it is."""
    if not isinstance(boundaries, tuple) or isinstance(boundaries, Wide):
        return boundaries
    starts = [_whole(canonical(b)) for b in (0, *boundaries)]
    kinds = {jax.tree.structure(b) for b in starts[1:]} | {
        leaf.dtype for b in starts[1:] for leaf in jax.tree.leaves(b)
    }
    if kinds - {jax.tree.structure(0), np.dtype(np.int32)}:
        starts = [Wide(*_wide(b)) for b in starts]
    return jax.tree.map(stack, *starts)


def table_of_values(values: Any) -> Any:
    """Return the values of the pieces in float32; a table as it is."""
    if not isinstance(values, tuple):
        return values
    rows = [canonical(value) for value in values]
    return stack(*(x.high if isinstance(x, Wide) else x.astype(np.float32) for x in rows))


def piece_at(now: StepCount, starts: Any) -> jax.Array:
    """Return the piece of each step, int32: the last that has begun, found by halving.

    The first piece has begun whatever happens, and of pieces that start together the last one
    is meant. A table of k pieces is looked at log2(k) times.
    """
    last = len(jax.tree.leaves(starts)[0]) - 1
    piece = jnp.zeros_like(now.whole)
    width = 1 << last.bit_length()
    while width := width >> 1:
        ahead = piece + width
        begun = (ahead <= last) & now.reached(start_of(jnp.minimum(ahead, last), starts))
        piece = jnp.where(begun, ahead, piece)
    return piece


def start_of(piece: jax.Array, starts: Any) -> StepCount:
    """Return the step at which a piece starts."""
    return step_count(jax.tree.map(lambda leaf: row(leaf, piece), starts))


def _whole(x: Any) -> Any:
    """Return an int32 if it is known and whole: to look among whole numbers is cheaper."""
    if not isinstance(x, Wide) or any(isinstance(leaf, jax.Array) for leaf in x):
        return x
    value = exact(x)
    return value.astype(np.int32) if np.all(value == np.floor(value)) else x


def _wide(x: Any) -> tuple[Any, Any]:
    """Return a step number as `high + low`; a traced float32 has no low part."""
    if isinstance(x, Wide):
        return x
    if x.dtype != np.int32:
        return x, x * 0
    big = (x & ~127).astype(np.float32)
    return big, (x & 127).astype(np.float32)


@node
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
        """Return whether the piece of each step is in this group."""
        if self.single:
            return piece == self.slots.index(0)
        return row(np.asarray(self.slots) >= 0, piece)

    def pick(self, piece: jax.Array) -> Schedule:
        """Return the schedule of each step: the leaves have the steps' shape."""
        if self.single:
            return self.table
        rows = row(np.maximum(self.slots, 0).astype(np.int32), piece)
        return jax.tree.map(lambda leaf: row(leaf, rows), self.table)


@node
class Joined(Schedule):
    """A join as it is evaluated: groups, and a table of the steps at which the pieces start."""

    groups: tuple[Group, ...]
    starts: Any

    def prepared(self) -> Joined:
        """Return it as it is: it is prepared."""
        return self

    def at(self, now: StepCount) -> jax.Array:
        """Evaluate each group's formula, with the others' steps masked so that none is NaN."""
        piece = piece_at(now, self.starts)
        local = now.minus(start_of(piece, self.starts))
        result = jnp.zeros((), jnp.float32)
        for group in self.groups:
            if len(self.groups) == 1:
                return group.pick(piece).at(local)
            mine = group.owns(piece)
            step = select(mine, local, StepCount(jnp.zeros_like(local.whole)))
            result = jnp.where(mine, group.pick(piece).at(step), result)
        return result


@node
class Join(Schedule):
    """Pieces and boundaries as they were given; see `join`."""

    schedules: tuple[Schedule, ...] = field(as_schedules)
    boundaries: Any = field(require_boundaries)

    def check(self) -> None:
        """Raise ValueError unless there is a boundary between each two pieces."""
        require_one_between(self.boundaries, len(self.schedules), "schedules")

    def prepared(self) -> Joined:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the pieces by group."""
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

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        return self.prepared().at(now)

    def parts(self) -> list[Part]:
        """Return the parts of each piece while it is in force."""
        found = []
        starts = [0.0, *map(known_steps, self.boundaries)]
        for piece, start, stop in zip(self.schedules, starts, [*starts[1:], None], strict=True):
            found += limited(moved(piece.parts(), start.__add__), start, stop)
        return found


@builds(Join)
def join(schedules: Sequence[Schedule | Callable[[Any], Any]], boundaries: Boundaries) -> Join:
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
    return checked(Join, locals())


def _is_wide(x: Any) -> bool:
    return isinstance(x, Wide)


@recipe
def then(
    first: Schedule | Callable[[Any], Any],
    second: Schedule | Callable[[Any], Any],
    after: Steps,
) -> Join:
    r"""Follow one schedule for a number of steps, then another from its own step 0.

    $$f(t) = \begin{cases} f_1(t) & t < b \\ f_2(t - b) & t \ge b \end{cases}$$

    So any curve is the warm-up, or the decay, of any other. It is `join([first, second],
    [after])`; `schedule.then(other, after)` is the same.

    Args:
        first: The schedule up to `after`: a schedule, or a plain function of the step.
        second: The schedule from there on.
        after: The steps $b$ that the first has, from the start of it; scalar, in
            [0, 2**31 - 1]. If 0, the first is skipped.

    Returns:
        A `join` of the two: step to float32.

    Raises:
        ValueError: If one is not a schedule, or `after` is outside its range.

    Source:
        `optax.join_schedules`, `torch.optim.lr_scheduler.SequentialLR`.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, linear_warmup, then
        >>> schedule = then(linear_warmup(0.1, 10), cosine_decay(0.1, 90), after=10)
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 55, 100)]
        [0.05, 0.1, 0.05, 0.0]
    """
    return join([first, second], [after])
