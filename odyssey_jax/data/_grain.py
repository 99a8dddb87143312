"""Sources from Grain's data sets and loaders."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from odyssey_jax.data._leaves import batch_of, length_of
from odyssey_jax.data._streams import Passes, StepFunction, Stream


def grain_stream(name: str, value: Any) -> Stream | None:
    """Return the stream of a Grain data set or loader, or None if it is none."""
    grain = sys.modules.get("grain")
    if grain is None:
        return None
    if isinstance(value, grain.MapDataset):
        return _map_stream(name, value)
    if isinstance(value, (grain.IterDataset, grain.DataLoader)):
        return Passes(
            name=name,
            kind=f"Grain {_public_name(value)}",
            begin=lambda index: iter(value),
            by_index=True,
            repeatable=True,
            save=lambda iterator: iterator.get_state(),
            restore=lambda index, state: _restored(iter(value), state),
        )
    return None


def _public_name(value: Any) -> str:
    return "DataLoader" if type(value).__name__ == "DataLoader" else "IterDataset"


def _restored(iterator: Any, state: Any) -> Any:
    iterator.set_state(_here(iterator, state) if isinstance(state, bytes) else state)
    return iterator


def _here(iterator: Any, state: bytes) -> bytes:
    """Return a DataLoader's state with the addresses that its source and sampler have here.

    Grain compares their `repr`, which by default is another in each process.
    """
    now, then = json.loads(iterator.get_state()), json.loads(state)
    bare = lambda text: re.sub(" at 0x[0-9a-f]+", "", str(text))
    same = {name: x for name, x in now.items() if isinstance(x, str)}
    same = {name: x for name, x in same.items() if bare(x) == bare(then.get(name))}
    return json.dumps({**then, **same}).encode()


def _map_stream(name: str, value: Any) -> Stream:
    """Return batches by index: Grain shuffles anew for those beyond the length."""
    batches = len(value)
    endless = batches >= sys.maxsize  # as `repeat()` has it
    if not batches:
        raise ValueError(f"{name} is a Grain MapDataset without a batch: its length is 0.")
    return StepFunction(
        name=name,
        kind="Grain MapDataset",
        function=lambda step: value[step],
        steps_per_pass=None if endless else batches,
        remainder=0 if endless else length_of(batch_of(name, value[batches - 1])),
    )
