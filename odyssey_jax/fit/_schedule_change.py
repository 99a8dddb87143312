"""Going on with another learning rate: whether it is another, from where on, and by how much."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._types import ScheduleFn
from odyssey_jax.schedules import Schedule, differences, from_form, named_form

# Two schedules within 1e-6 of one formula each are the same: what is written otherwise, such as a
# line as a polynomial, may differ in the last bit.
_TOLERANCE = 2e-6
_CHUNK = 1 << 20
_PROBES = 65


class Difference(NamedTuple):
    """Where two curves differ.

    Attributes:
        first: The first update at which they do.
        most: The update at which they do the most, relative to the greater of the two.
        then: The old curve's values at these two.
        now: The new curve's.
    """

    first: int
    most: int
    then: tuple[float, float]
    now: tuple[float, float]

    def __str__(self) -> str:
        where = "they first differ at update {}, {:.6g} then and {:.6g} now"
        text = where.format(self.first, self.then[0], self.now[0])
        if self.most != self.first:
            where = ", and the most at update {}, {:.6g} then and {:.6g} now"
            text += where.format(self.most, self.then[1], self.now[1])
        return text


def schedule_form(schedule: ScheduleFn | None) -> Any:
    """Return the schedule as the metadata has it: its JSON form, or a plain function's name."""
    if isinstance(schedule, Schedule):
        return json.loads(schedule.to_json())
    return None if schedule is None else _name(schedule)


def _name(function: Callable[..., Any]) -> str:
    """Return a plain function's name, the same in every process and version of JAX."""
    if isinstance(function, functools.partial):  # as jax.tree_util.Partial is
        more = [repr(x) for x in function.args]
        more += [f"{key}={x!r}" for key, x in function.keywords.items()]
        return f"partial({', '.join([_name(function.func), *more])})"
    name = getattr(function, "__qualname__", None)
    if name is None:
        return _without_address(repr(function))
    return f"{getattr(function, '__module__', '?')}.{name}"


def schedule_record(schedule: Any, updates: int) -> dict[str, Any]:
    """Return what a checkpoint's metadata says of the schedule, or of each of a mapping.

    A plain function can't be built again from its name, so its values at some updates of the run
    are recorded as well: another schedule is then compared with these.
    """
    if isinstance(schedule, Mapping):
        return {"schedules": {part: schedule_record(x, updates) for part, x in schedule.items()}}
    form = schedule_form(schedule)
    if schedule is None or from_form(form) is not None:
        return {"schedule": form}
    last = max(updates - 1, 0)
    powers = 2 ** np.arange(last.bit_length())
    spread = np.rint(np.linspace(0, last, _PROBES)).astype(np.int64)
    probes = np.unique(np.concatenate([spread, powers[powers <= last]]))
    values = _curve(schedule)(probes)
    record = {"updates": probes.tolist(), "values": [float(x) for x in values]}
    return {"schedule": form, "schedule_values": record}


def check_schedule(
    saved: Mapping[str, Any],
    schedule: Any,
    change: str,
    directory: Any,
    done: int | Mapping[str, int],
    last: int | Mapping[str, int],
    part: str | None = None,
) -> None:
    """Raise ValueError if a run can't go on with this learning rate.

    Args:
        saved: The metadata of the checkpoint to go on from.
        schedule: The schedule to go on with, or a mapping of one for each part.
        change: What may differ.
        directory: Of the run, for the message.
        done: The updates done; of each part by its name, where a step of one's own makes them.
        last: The updates of the whole run, likewise.
        part: The part of the parameters whose rate it is, for the message.

    Raises:
        ValueError: If it may not differ and does; the message says where they first differ and
            by how much, or why that is not known.
    """
    if change == "replace":
        return
    if isinstance(schedule, Mapping) or "schedules" in saved:
        then, now = saved.get("schedules", {}), schedule if isinstance(schedule, Mapping) else {}
        for name in sorted({*then, *now}):
            counts = (x if isinstance(x, int) else x.get(name, 0) for x in (done, last))
            check_schedule(then.get(name, {}), now.get(name), change, directory, *counts, part=name)
        return
    done, last = (x if isinstance(x, int) else x.get("", 0) for x in (done, last))
    then = saved.get("schedule")
    updates = max(done, last)
    compared, found = _compare(saved, schedule, updates)
    known = _known_until(saved, updates)
    if found is None and (_alike(then, schedule_form(schedule)) or (compared and known >= updates)):
        return
    past_agrees = compared and known >= done and (found is None or found.first >= done)
    if change == "extend" and past_agrees:
        return
    if not compared:
        how = "how they compare is not known"
    elif found is None:
        how = f"they agree up to update {known}, and how they compare after it is not recorded"
    else:
        how = f"{found}. The run stands at update {done}, so "
        how += "only what is to come differs" if past_agrees else "its past differs too"
    accept = "'extend' or 'replace'" if past_agrees else "'replace'"
    needs = " schedule_change='extend' needs the past to agree." if change == "extend" else ""
    raise ValueError(
        f"the run in {directory} was begun with another learning rate"
        f"{'' if part is None else f' of {part!r}'}: "
        f"{_change(then, schedule_form(schedule))}; {how}.{needs} Use the one of then, or accept "
        f"the new one with schedule_change={accept}."
    )


def _compare(
    saved: Mapping[str, Any], schedule: ScheduleFn | None, updates: int
) -> tuple[bool, Difference | None]:
    """Return whether they could be compared, and where they differ."""
    if schedule is None:
        return False, None
    form, recorded = saved.get("schedule"), saved.get("schedule_values")
    if form == schedule_form(schedule) and from_form(form) is not None:
        return True, None
    rebuilt = from_form(form)
    if rebuilt is not None:
        return True, _difference(_curve(rebuilt), _curve(schedule), _chunks(updates))
    if recorded is not None:
        values = np.asarray(recorded["values"], np.float32)
        steps = np.asarray(recorded["updates"])
        return True, _difference(lambda _: values, _curve(schedule), iter([steps]))
    return False, None


def _known_until(saved: Mapping[str, Any], updates: int) -> int:
    """Return how many updates the record covers: a plain function's ends with the run it was of."""
    recorded = saved.get("schedule_values")
    return updates if recorded is None else recorded["updates"][-1] + 1


def _curve(schedule: ScheduleFn) -> Callable[[np.ndarray], np.ndarray]:
    """Return the schedule as a function of an array of updates."""
    # A plain function gets one update at a time, as in the loop: it may know of nothing else.
    one = lambda update: jnp.asarray(schedule(update), jnp.float32)
    each = jax.jit(lambda updates: jax.lax.map(one, updates))
    values = schedule if isinstance(schedule, Schedule) else each
    return lambda updates: np.asarray(values(np.asarray(updates, np.int32)))


def _chunks(updates: int) -> Iterator[np.ndarray]:
    """Yield every update, in arrays of one length: the last update is repeated to fill it."""
    size = min(_CHUNK, max(updates, 1))
    for start in range(0, updates, size):
        yield np.minimum(np.arange(start, start + size), updates - 1)


def _difference(
    then: Callable[[np.ndarray], np.ndarray],
    now: Callable[[np.ndarray], np.ndarray],
    chunks: Iterator[np.ndarray],
) -> Difference | None:
    first = most = None
    greatest = 0.0
    for updates in chunks:
        a, b = then(updates).astype(np.float64), now(updates).astype(np.float64)
        size = np.maximum(np.abs(a), np.abs(b))
        # NaN is like NaN, and unlike all else.
        both_nan = np.isnan(a) & np.isnan(b)
        gap = np.where(both_nan | (a == b), 0.0, np.abs(a - b) / np.where(size > 0, size, 1.0))
        gap = np.where(np.isnan(gap), np.inf, gap)
        apart = np.flatnonzero(gap > _TOLERANCE)
        if apart.size == 0:
            continue
        at = lambda i, updates=updates, a=a, b=b: (int(updates[i]), float(a[i]), float(b[i]))
        first = first or at(apart[0])
        if gap.max() > greatest:
            greatest, most = gap.max(), at(gap.argmax())
    if first is None or most is None:
        return None
    return Difference(first[0], most[0], (first[1], most[1]), (first[2], most[2]))


def _alike(then: Any, now: Any) -> bool:
    """Return whether two forms are the same, memory addresses aside."""
    return _without_address(json.dumps(then)) == _without_address(json.dumps(now))


def _without_address(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _change(then: Any, now: Any) -> str:
    """Return what differs in the records, the first 3 places of it."""
    if None in (then, now):
        own = "an optimizer that was made already keeps its own to itself"
        return f"{own}, {named_form(now if then is None else then)} is given as learning_rate"
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        places = differences(then.get("schedule"), now.get("schedule"), "learning_rate")
    else:
        places = [f"learning_rate was {named_form(then)}, here it is {named_form(now)}"]
    more = f"; and {len(places) - 3} more" if len(places) > 3 else ""
    return "; ".join(places[:3]) + more
