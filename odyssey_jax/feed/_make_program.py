"""Which program runs over which data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from odyssey_jax._types import ScheduleFn, Task
from odyssey_jax.data import IndexedSource, Source
from odyssey_jax.feed._driven import PREFETCH_BYTES, Driven
from odyssey_jax.train import (
    Inputs,
    OptimizerLike,
    Program,
    Resident,
    as_sets,
    check_rate,
    make_loop,
)


def make_program(
    task: Task,
    optimizer: OptimizerLike,
    train: Source,
    valid: Source | Mapping[str, Source] | None,
    learning_rate: ScheduleFn | Mapping[str, ScheduleFn] | None,
    *,
    total_steps: int | None = None,
    valid_steps: int | None = None,
    prefetch_bytes: int = PREFETCH_BYTES,
    **options: Any,
) -> Program:
    """Make the program for these sources of batches.

    Args:
        task: What is trained.
        optimizer: As for `make_loop`.
        train: The training data.
        valid: The validation data, several sets of it by name, or None.
        learning_rate: The schedule, where the optimizer is made from one.
        total_steps: The train steps of the whole run, for a loss that asks for its progress.
        valid_steps: As for `Driven`.
        prefetch_bytes: As for `Driven`.
        **options: Other arguments of `make_loop`.

    Returns:
        `Resident` where all data lies on the device and the host measures no columns, and else
        `Driven`.
    """
    check_rate(learning_rate)
    loop = make_loop(task, optimizer, **options)
    total = None if total_steps is None else np.int32(total_steps)
    inputs = Inputs(cast(Any, train), cast(Any, valid), cast(Any, learning_rate), total)
    resident = all(isinstance(x, IndexedSource) for x in (train, *as_sets(valid).values()))
    if resident and not loop.columns:
        return Resident(task, loop, inputs)
    return Driven(task, loop, inputs, valid_steps=valid_steps, prefetch_bytes=prefetch_bytes)
