"""Going on from a checkpoint: what must be as it was, and what may differ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import jax

from odyssey_jax._types import Signal, Task
from odyssey_jax.callbacks import AdaptRate, Chain, Checkpoint, Log, TrackBest
from odyssey_jax.fit._rankings import with_rankings, without_rankings
from odyssey_jax.fit._result import history_of
from odyssey_jax.fit._samples import record, with_room
from odyssey_jax.fit._table import resized
from odyssey_jax.store import Store
from odyssey_jax.train import Carry, Inputs, Keys, Loop, init_compiled, own, plan_blocks

Resume = Literal["latest", "best", False] | int


def fresh_carry(task: Task, loop: Loop, inputs: Inputs, seed: int) -> Carry:
    """The carry of a run that has not begun, in buffers of its own."""
    root = jax.random.key(seed)
    params, model_state = task.init(Keys.of(root).init)
    return init_compiled(loop, root, params, model_state, inputs)


def identity(
    train: Any, seed: int, steps_per_epoch: int | None, accumulate_steps: int
) -> dict[str, Any]:
    """What decides which batch and which key belong to a step: it may not change on the way."""
    return {
        "seed": seed,
        "examples": len(train),
        "batch_size": train.batch_size,
        "shuffle": train.shuffle,
        "drop_remainder": train.drop_remainder,
        "steps_per_epoch": plan_blocks(train, steps_per_epoch).epoch,
        "accumulate_steps": accumulate_steps,
    }


def describe(callbacks: Chain) -> str:
    """The callbacks that may end a run, with their arguments; the same in every process."""
    others = (AdaptRate, Checkpoint, Log, TrackBest)
    deciding = [c for c in callbacks.callbacks if not isinstance(c, others)]
    return re.sub(r" at 0x[0-9a-f]+", "", repr(deciding))


def check_resume(resume: Resume) -> None:
    """Refuses what is neither a word nor a step."""
    number = isinstance(resume, int) and not isinstance(resume, bool)
    if not (number or resume is False or resume in ("latest", "best")):
        raise ValueError(f"resume must be 'latest', 'best', a step or False, got {resume!r}.")


def step_to_resume(store: Store, resume: Resume) -> int | None:
    """The checkpoint that a run goes on from; None to begin.

    Of the latest and the best, one that is corrupt is passed over, with a warning.

    Raises:
        ValueError: `resume` is none of the words, or there is no such checkpoint.
        CheckpointCorruptError: all of them are corrupt.
    """
    check_resume(resume)
    if resume is False or (isinstance(resume, str) and not store.steps()):
        return None
    if resume == "latest":
        return store.latest(verify=True)
    if resume == "best":
        best = None if store.monitor is None else store.best(verify=True)
        if best is None:
            raise ValueError(
                f"resume='best' finds no best checkpoint in {store.directory}: there is none "
                "with a metric that is a number, or the checkpoint callback has no monitor and "
                "keep_best."
            )
        return best
    if resume not in store.steps():
        raise ValueError(
            f"resume={resume} is not among the checkpoints in {store.directory}: "
            f"{list(store.steps())}."
        )
    return resume


def give_up_later(store: Store, step: int | None) -> None:
    """Has checkpoints past the one that a run goes on from deleted, when it has saved one.

    They are no longer its own. Those that were passed over for being corrupt stay until the run
    is there.

    Args:
        store: where they are.
        step: the one that the run goes on from; None to begin, which gives up all.

    Raises:
        CheckpointError: one of them is pinned.
    """
    later = [saved for saved in store.steps() if step is None or saved > step]
    store.give_up(saved for saved in later if saved not in store.skipped)


def check_identity(store: Store, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to go on with a run that would see other batches than it would have seen.

    Raises:
        ValueError: naming each value that differs.
    """
    if not then:
        raise ValueError(
            f"the checkpoints in {store.directory} are not of `fit`: use another directory."
        )
    differs = [f"{k}: {then.get(k)!r} then, {v!r} now" for k, v in now.items() if then.get(k) != v]
    if differs:
        raise ValueError(
            f"the run in {store.directory} can't go on, since it would not see the batches "
            f"that it would have seen: {'; '.join(differs)}. Use the same values, or another "
            "directory."
        )


def restore(store: Store, metadata: Mapping[str, Any], loop: Loop, carry: Carry) -> Carry:
    """Reads a checkpoint into a carry of this loop.

    Args:
        store: where the checkpoint is.
        metadata: the checkpoint's.
        loop: the loop that goes on, with at least as much room for the history.
        carry: a fresh carry of the loop, for its structure and where its arrays lie.

    Returns:
        The carry as it was saved.

    Raises:
        CheckpointError: the checkpoint is of another model, optimizer or set of callbacks, or
            can't be read.
    """
    capacity = history_of(carry).epoch.shape[0]
    target = _with_capacity(without_rankings(carry, loop.callbacks), metadata["capacity"])
    target = with_room(target, metadata.get("samples"))
    restored = store.restore(target, metadata["step"]).tree
    if metadata["callbacks"] != describe(loop.callbacks):
        # Callbacks with other hyper-parameters decide anew: more patience goes on.
        restored = restored._replace(signal=own(Signal.none()))
    restored = _with_capacity(with_rankings(restored, loop.callbacks), capacity)
    return with_room(restored, record(loop.sampling))


def _with_capacity(carry: Carry, capacity: int) -> Carry:
    """The carry with a history of another length."""
    history = history_of(carry)
    if history.epoch.shape[0] == capacity:
        return carry
    roomy = history._replace(
        epoch=resized(history.epoch, capacity),
        step=resized(history.step, capacity),
        metrics={name: resized(x, capacity) for name, x in history.metrics.items()},
    )
    return carry._replace(callbacks=(roomy, *carry.callbacks[1:]))
