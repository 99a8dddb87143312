"""The sampled train steps of a run: how much room they need, and how they become rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from odyssey_jax.fit._table import as_rows, capacity_for, resized
from odyssey_jax.train import Carry, Sampling, sampling
from odyssey_jax.writers import Row

_OUTPUTS = ("loss", "grad_norm")


def sampling_for(
    every: int | None,
    outputs: Sequence[str] | None,
    steps: int,
    saved: Mapping[str, Any] | None,
    directory: str | Path | None,
) -> Sampling | None:
    """What `fit` samples, with room for the whole run.

    Args:
        every: train steps from one row to the next, or None.
        outputs: names of scalar outputs; None is the loss and the gradient's norm.
        steps: train steps of the run.
        saved: the metadata of the checkpoint that the run goes on from, or None.
        directory: the run's.

    Raises:
        ValueError: an argument is out of its range, or is not the one that the run was begun with.
    """
    then = (saved or {}).get("samples")
    if every is None:
        if outputs is not None:
            raise ValueError(
                f"log_outputs={outputs!r} are sampled every n-th train step: pass "
                "log_every_n_steps= as well."
            )
        now = None
    else:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(
                f"log_every_n_steps must be an integer of at least 1 or None, got {every!r}."
            )
        room = capacity_for(steps // every + 1)  # the last one may not be complete
        room = max(room, then["capacity"] if then else 0)
        now = sampling(every, _OUTPUTS if outputs is None else outputs, room)
    if saved is not None and _what(then) != _what(record(now)):
        raise ValueError(
            f"the run in {directory} was begun with {_words(then)}, and can't go on with "
            f"{_words(record(now))}: its samples would not be of one kind. Use the same, or "
            "another directory."
        )
    return now


def record(sampling: Sampling | None) -> dict[str, Any] | None:
    """What a checkpoint's metadata says of it."""
    if sampling is None:
        return None
    return {
        "every": sampling.every,
        "outputs": list(sampling.outputs),
        "capacity": sampling.capacity,
    }


def _what(recorded: Mapping[str, Any] | None) -> Any:
    return None if recorded is None else (recorded["every"], list(recorded["outputs"]))


def _words(recorded: Mapping[str, Any] | None) -> str:
    if recorded is None:
        return "log_every_n_steps=None"
    return f"log_every_n_steps={recorded['every']}, log_outputs={list(recorded['outputs'])}"


def with_room(carry: Carry, recorded: Mapping[str, Any] | None) -> Carry:
    """The carry with as much room for samples as was recorded."""
    if carry.samples is None or recorded is None:
        return carry
    room = recorded["capacity"]
    return carry._replace(samples={name: resized(x, room) for name, x in carry.samples.items()})


def sample_table(carry: Carry, sampling: Sampling | None, start: int = 0) -> dict[str, np.ndarray]:
    """The complete samples from a given one on, as columns.

    "step" is the number of train steps done at the sample, as in the history.
    """
    if sampling is None or carry.samples is None:
        return {}
    end = sampling.length(int(carry.clock.step))
    columns = {name: column[start:end] for name, column in jax.device_get(carry.samples).items()}
    return {"step": sampling.every * np.arange(start + 1, end + 1), **columns}


def sample_rows(carry: Carry, sampling: Sampling | None) -> list[Row]:
    """The samples as rows, as the history has them."""
    return as_rows(sample_table(carry, sampling))
