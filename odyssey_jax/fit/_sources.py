"""The data of a run, as `fit` is given it: made sources, and checked."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from odyssey_jax._types import cadences_of
from odyssey_jax.callbacks import When
from odyssey_jax.data import HostSource, Source, as_source, is_array, is_unbatched
from odyssey_jax.parallel import Placement, check_placement, check_whole, placement_for
from odyssey_jax.train import Evaluation, as_sets, holds_in, prefix_of

_LOOKED_AT = 2**20  # epochs at a time


def on_device(data: Any) -> Any:
    """Return what of the data every process must have alike: what is read is shared out."""
    if isinstance(data, Mapping):
        return {name: on_device(x) for name, x in data.items()}
    return None if isinstance(data, HostSource) else data


def as_sources(
    train: Any, valid: Any, batch_size: Any
) -> tuple[Source, Source | Mapping[str, Source] | None, dict[str, Evaluation]]:
    """Return the data as sources, the validation data as one for each name where it has names.

    The batch size is for all that has no batches of its own, of which there must be some. What is
    said of sets that are an `Evaluation` comes third, by their names; a single one's is "".
    """
    named = _is_of_sets(valid)
    given: Mapping[str, Any] = valid if named else {} if valid is None else {"": valid}
    if named:
        _check_names(given)
    own = {name: x for name, x in given.items() if isinstance(x, Evaluation)}
    sets = {name: own[name].data if name in own else x for name, x in given.items()}
    # What has batches of its own refuses a batch size, where it would be for nothing else.
    used = any(map(is_unbatched, (train, *sets.values())))
    size_of = lambda data: batch_size if is_unbatched(data) or not used else None
    size = size_of(train)
    source = as_source("train", train, batch_size=size, shuffle=size is not None)
    called = lambda name: f"valid[{name!r}]" if named else "valid"
    sources = {
        name: as_source(called(name), data, batch_size=size_of(data)) for name, data in sets.items()
    }
    shared = getattr(source, "shared", None)
    if shared is not None and any(getattr(x, "shared", None) is shared for x in sources.values()):
        raise ValueError(
            f"train and valid are one {type(shared).__name__}, and {source!r} can only be read "
            "from one place at a time: make another for valid."
        )
    evaluations = {name: dataclasses.replace(x, data=sources[name]) for name, x in own.items()}
    for name, x in evaluations.items():
        length = sources[name].steps_per_pass
        if x.batches is not None and length is not None and x.batches > length:
            raise ValueError(
                f"batches={x.batches} is more than the {length} batches of {called(name)}."
            )
    return source, sources if named else sources.get(""), evaluations


def _check_names(sets: Mapping[Any, Any]) -> None:
    for name in sets:
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(
                f"valid has a set named {name!r}: a name is text without '/', since its metrics "
                "are 'valid/<name>/loss' and so on."
            )


def _is_of_sets(valid: Any) -> bool:
    """Return whether it is a mapping of sets by name, and not of the arrays of one."""
    if not isinstance(valid, Mapping) or any(map(is_array, valid.values())):
        return False
    if not valid:
        raise ValueError("valid is an empty mapping: leave it out, or give the sets by name.")
    return True


def placed(placement: Any, train: Source, valid: Any) -> Placement:
    """Return the placement of a run, chosen where none is given.

    Each process gives a share of the batches that are read, a smaller one's too.

    Raises:
        TypeError: If it is no placement.
        ValueError: If the batches can't lie so, or what is there lies in parts.
    """
    shares = lambda source: jax.process_count() if isinstance(source, HostSource) else 1
    size = shares(train) * train.batch_size
    if placement is None:
        placement, idle = placement_for(lambda parts: size % parts == 0)
        if idle is not None:
            warnings.warn(idle, RuntimeWarning, stacklevel=5)
    check_placement(placement)
    placement.check(size)
    for source in (train, *as_sets(valid).values()):
        if shares(source) > 1:
            placement.check(shares(source) * source.batch_size)
            if source.remainder:
                placement.check(shares(source) * source.remainder)
    for name, data in (("the training data", train), ("the validation data", valid)):
        check_whole(name, on_device(data))
    return placement


def check_valid_steps(
    valid: Any, valid_steps: int | None, evaluations: Mapping[str, Evaluation]
) -> None:
    """Raise ValueError unless it is said, where it must be, how much of the data to validate on."""
    own = [name for name, evaluation in evaluations.items() if evaluation.batches is not None]
    read = {name: x for name, x in as_sets(valid).items() if isinstance(x, HostSource)}
    read = {name: x for name, x in read.items() if name not in own}
    if valid_steps is not None and not read:
        raise ValueError(
            f"valid_steps={valid_steps} has no effect: it is the batches to take of validation "
            "data that is read on the host."
        )
    for name, source in read.items():
        of = f"valid[{name!r}]" if name else "valid"
        if valid_steps is None and source.steps_per_pass is None:
            raise ValueError(
                f"valid_steps must be given: how many batches {of}={source!r} has is not known."
            )
        if valid_steps is not None and valid_steps > (source.steps_per_pass or valid_steps):
            raise ValueError(
                f"valid_steps={valid_steps} is more than the {source.steps_per_pass} batches of "
                f"{of}."
            )


def check_measured(
    evaluations: Mapping[str, Evaluation],
    columns: Mapping[str, When],
    monitors: Sequence[str | None],
    epochs: int,
) -> None:
    """Raise ValueError for a metric that is monitored, and never measured in the whole run."""
    of = dict.fromkeys(columns, "its hook")
    known = dict(columns)
    for name, every in ((name, x.every) for name, x in evaluations.items()):
        if every is not None:
            known[prefix_of(name)] = every
            of[prefix_of(name)] = f"valid[{name!r}]" if name else "valid"
    for monitor in filter(None, monitors):
        for which in cadences_of(monitor, known):
            if not _ever_holds(known[which], epochs):
                raise ValueError(
                    f"{monitor!r} is monitored, and with epochs={epochs} it is never measured, "
                    f"since {of[which]} is {known[which]!r}: measure it earlier, or train longer."
                )


def _ever_holds(when: When, epochs: int) -> bool:
    parts = range(0, epochs, _LOOKED_AT)
    ends = (np.arange(first, min(first + _LOOKED_AT, epochs)) for first in parts)
    return any(bool(np.any(holds_in(when, epoch))) for epoch in ends)
