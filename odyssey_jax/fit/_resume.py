"""Going on from a checkpoint: what must be as it was, and what may differ."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from odyssey_jax._text import say
from odyssey_jax._types import ModelState, StopReason, TrainState
from odyssey_jax.callbacks import Chain, asks_to_stop, callback_signature
from odyssey_jax.data import HostSource
from odyssey_jax.fit._matching import match
from odyssey_jax.fit._plan import Plan, Resume
from odyssey_jax.fit._schedule_change import check_schedule, schedule_record
from odyssey_jax.fit._sources import on_device
from odyssey_jax.parallel import check_alike, is_first
from odyssey_jax.store import Store
from odyssey_jax.train import Program, Progress
from odyssey_jax.transforms import state_of_frozen, updates_done


class Start(NamedTuple):
    """Where a run begins or goes on.

    Attributes:
        program: What is run.
        carry: The run so far.
        progress: The same as the host knows it.
        about: What the checkpoints' metadata says of the run.
        seconds: What the run took before.
    """

    program: Program
    carry: Any
    progress: Progress
    about: Mapping[str, Any]
    seconds: float

    @property
    def metrics_at_start(self) -> Mapping[str, float]:
        """What was measured before the first train step of the run."""
        return self.about.get("metrics_at_start", {})


@jax.transfer_guard("allow")
def start(plan: Plan, store: Store | None, leave: Callable[[], bool] = lambda: False) -> Start:
    """Begin a run, or go on with the one in the store.

    Args:
        plan: What to do.
        store: Where the run is saved, held by this process; None is nowhere.
        leave: Whether to measure no further before the first step, since the run is to end.

    Returns:
        The program and its carry.

    Raises:
        ValueError: If the run was begun with other arguments, or the processes differ in theirs.
        CheckpointError: If the checkpoint is of another model, optimizer or set of callbacks, or
            can't be read.
    """
    step = None if store is None else _step_to_resume(store, plan.resume)
    saved = None if store is None or step is None else store.metadata(step)
    program = plan.program(saved)
    identity = {"seed": plan.seed, **program.signature}
    about = {
        "run": identity,
        "epochs": plan.length.rows,
        "last_step": plan.last_step,
        "samples": _samples_record(plan),
        "callbacks": _deciding(plan.callbacks),
        "chain": [callback_signature(c) for c in plan.callbacks.callbacks],
        "config": dict(plan.config),
        "placement": plan.placement.words,
        **schedule_record(plan.schedule, plan.updates),
    }
    if store is not None:
        if saved is not None:
            _check(store, saved, about, plan)
        _give_up_later(store, step)
    carry = program.init(jax.random.key(plan.seed))
    _say_what_moves(program.state(carry))
    at_start = [name for name, x in plan.evaluations.items() if x.at_start]
    check_alike(
        {
            "set of arguments": (identity, plan.last_step),
            "training data": on_device(plan.train),
            "validation data": on_device(plan.valid),
            "learning rate": plan.schedule,
            "model or optimizer": carry,
        }
    )
    if saved is not None:
        about["metrics_at_start"] = saved.get("metrics_at_start", {})
    elif at_start:
        about["metrics_at_start"] = program.measure(carry, at_start, leave) or {}
    if store is not None:
        about["made_of"] = {"jax": jax.__version__, **program.made_of(carry)}
    if store is None or saved is None:
        return Start(program, carry, program.look(carry).fetch(), about, 0.0)
    target, names = program.target(carry, saved["program"]), store.leaves(saved["step"])
    found = match([x.name for x in names], target, saved["chain"], about["chain"])
    tree = store.restore(target, saved["step"], transfer=found.transfer).tree
    # After the restore, whose error names each leaf of another model.
    if plan.run_change == "refuse":
        _check_made_of(saved, about, plan)
    # Callbacks with other hyper-parameters decide anew: with more patience the run goes on.
    anew = saved["callbacks"] != about["callbacks"]
    reading = _reading(saved, plan)
    carry = program.restored(tree, carry, decide_anew=anew, fresh=found.fresh, reading=reading)
    if plan.task.update is not None:
        counts = updates_done(program.state(carry).opt_state)
        done = {part: int(count) for part, count in counts.items()}
        share = plan.last_step / max(saved["step"], 1)
        last = {part: max(plan.updates, math.ceil(n * share)) for part, n in done.items()}
        _check_schedule(saved, plan, done, last)
    progress = program.look(carry).fetch()
    other = [*found.said, *_elsewhere(saved, about), *_skipped(saved, plan)]
    _say_where(saved, progress, plan, other)
    return Start(program, carry, progress, about, saved.get("seconds", 0.0))


def _say_what_moves(state: TrainState) -> None:
    """Say on stderr which state of a frozen layer the model goes on to update."""
    updated = state.model_state
    updated = updated.updated if isinstance(updated, ModelState) else updated
    found = state_of_frozen(state.opt_state, state.params, updated)
    moving = [name for name, hold in found.items() if hold is None]
    if moving and is_first():
        more = f" and {len(moving) - 3} more" if len(moving) > 3 else ""
        say(
            f"freeze leaves the model's state of what is frozen moving: {', '.join(moving[:3])}"
            f"{more}; freeze(..., hold_state=True) holds it, hold_state=False says nothing"
        )


def _reading(saved: Mapping[str, Any], plan: Plan) -> Any:
    """Return where this process goes on to read.

    Raises:
        ValueError: If the training data can't be read from there.
    """
    source, reading = plan.train, saved.get("reading")
    if not isinstance(source, HostSource) or saved["step"] == 0:
        return None
    if source.resumes == "never":
        raise ValueError(
            f"the run in {plan.directory} can't go on at step {saved['step']:,}, since "
            f"{source!r} can't be read from there{_why(source)}. Give a source that can, or begin "
            "again with resume=False."
        )
    if source.resumes != "by state":
        return None
    states = reading or []
    own = states[jax.process_index()] if len(states) == jax.process_count() else None
    if own is None or own.get("state") is None:
        raise ValueError(
            f"the run in {plan.directory} has no state of {source!r} for each of the "
            f"{jax.process_count()} processes, so that it can't be read from step "
            f"{saved['step']:,} on: it was saved by {len(states)}. Go on with as many "
            "processes as it was begun with, or begin again with resume=False."
        )
    return own


def _why(source: Any) -> str:
    refusal = getattr(source, "refusal", "").rstrip(".")
    return f": {refusal}" if refusal else ""


def _skipped(saved: Mapping[str, Any], plan: Plan) -> list[str]:
    """Say how long it takes to read once more what was trained on, where that must be."""
    source = plan.train
    if not isinstance(source, HostSource) or source.resumes != "by skipping" or not saved["step"]:
        return []
    length = source.steps_per_pass
    batches = saved["step"] if length is None else saved["step"] % length
    seconds = ((saved.get("reading") or [{}])[0] or {}).get("seconds_per_batch")
    takes = "" if seconds is None else f", which takes about {in_words(batches * seconds)}"
    what = "1 batch" if batches == 1 else f"{batches:,} batches"
    return [f"{what} of {source!r} to read and drop first{takes}"]


def _step_to_resume(store: Store, resume: Resume) -> int | None:
    """Return the checkpoint that a run goes on from; None to begin.

    Of the latest and the best, one that is corrupt is passed over, with a warning.
    """
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


def _give_up_later(store: Store, step: int | None) -> None:
    """Schedule later checkpoints than this one for deletion, at the run's first commit.

    They are not of this run's history. Those that were passed over as corrupt stay until the run
    has saved the same step.
    """
    later = [saved for saved in store.steps() if step is None or saved > step]
    store.give_up(saved for saved in later if saved not in store.skipped)


def _check(store: Store, saved: Mapping[str, Any], about: Mapping[str, Any], plan: Plan) -> None:
    """Raise ValueError, naming what differs, if the saved run can't go on as this one."""
    then = saved.get("run", {})
    if not then:
        raise ValueError(
            f"the checkpoints in {store.directory} are not of `fit`: use another directory."
        )
    now = about["run"]
    pairs = {name: (then.get(name), now.get(name)) for name in {**now, **then}}
    differs = [f"{name}: {x!r} then, {y!r} now" for name, (x, y) in pairs.items() if x != y]
    if differs:
        raise ValueError(
            f"the run in {store.directory} can't go on, since it would not see the batches "
            f"that it would have seen: {'; '.join(differs)}. Use the same values, or another "
            "directory."
        )
    step, ended, interval = saved["step"], saved.get("last_step"), plan.length.interval
    if step % interval and step == ended and plan.last_step > step:
        raise ValueError(
            f"the run in {store.directory} was complete at step {step:,}, and its last evaluation "
            f"came early, {step % interval} train steps after the one before and not {interval}: "
            "it can't go on from there. Resume an earlier checkpoint, with resume=, or begin again "
            "with a length that is a multiple of the interval, fit(validate=ody.every(steps=...))."
        )
    if plan.task.update is None:  # a step of one's own makes as many updates as it counts
        done = saved["step"] // plan.options.accumulate_steps
        _check_schedule(saved, plan, done, plan.updates)
    if saved.get("samples") != about["samples"]:
        raise ValueError(
            f"the run in {plan.directory} was begun with {_samples_words(saved.get('samples'))}, "
            f"and can't go on with {_samples_words(about['samples'])}: its samples would not be "
            "of one kind. Use the same, or another directory."
        )


def _check_schedule(saved: Mapping[str, Any], plan: Plan, done: Any, last: Any) -> None:
    check_schedule(saved, plan.schedule, plan.schedule_change, plan.directory, done, last)


def _check_made_of(saved: Mapping[str, Any], about: Mapping[str, Any], plan: Plan) -> None:
    """Raise ValueError, naming it, if what a run is made of is not what it was."""
    then, now = saved.get("made_of", {}), about["made_of"]
    # Another version of JAX may trace the same function differently.
    traced = ("loss function", "optimizer", "train step") if then.get("jax") != now["jax"] else ()
    names = [k for k, v in now.items() if k not in ("jax", *traced) and k in then and then[k] != v]
    was, given = saved.get("config", {}), json.loads(json.dumps(about["config"]))
    names += [
        f"config[{k!r}] ({was.get(k)!r} then, {given.get(k)!r} now)"
        for k in sorted(was.keys() | given.keys())
        if was.get(k) != given.get(k)
    ]
    if names:
        read = isinstance(plan.train, HostSource) and {"training data", "validation data"} & {
            *names
        }
        hint = " Of a loader the first batch is compared: seed what it draws." if read else ""
        raise ValueError(
            f"the run in {plan.directory} was begun with another {', another '.join(names)}.{hint} "
            "Use the same; or go on all the same with run_change='accept'; or begin again with "
            "resume=False or in another directory."
        )


def _elsewhere(saved: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """Say that a run goes on where sums are added in another order."""
    then, now = saved.get("placement", about["placement"]), about["placement"]
    if then == now:
        return []
    return [f"saved in the placement {then!r}, goes on in {now!r}, so not to the bit"]


def _say_where(
    saved: Mapping[str, Any], progress: Progress, plan: Plan, other: Sequence[str]
) -> None:
    """Say on stderr, whatever the writers, that this run is not a new one."""
    if not is_first():
        return
    if progress.epoch >= plan.length.rows or progress.stop != StopReason.NONE:
        line = f"{plan.directory} is complete: nothing to train; resume=False begins again"
    else:
        age = max(time.time() - saved["timestamp"], 0.0)
        line = f"resumed from step {progress.step:,} of {plan.directory}, saved {_ago(age)}"
    line += "".join(f"; {phrase}" for phrase in other)
    say(line)


def _ago(seconds: float) -> str:
    """Return a duration in its largest whole unit, as "5 min ago"."""
    return f"{in_words(seconds)} ago"


def in_words(seconds: float) -> str:
    """Return a duration in its largest whole unit, as "5 min"."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _samples_record(plan: Plan) -> dict[str, Any] | None:
    every, outputs = plan.options.log_every_n_steps, plan.options.log_outputs
    return None if every is None else {"every": every, "outputs": list(outputs or ())}


def _samples_words(recorded: Mapping[str, Any] | None) -> str:
    if recorded is None:
        return "log_every_n_steps=None"
    return f"log_every_n_steps={recorded['every']}, log_outputs={list(recorded['outputs'])}"


def _deciding(callbacks: Chain) -> list[Any]:
    """Return the signatures of the callbacks that may end the run; the same in every process."""
    return [callback_signature(c) for c in callbacks.callbacks if asks_to_stop(c)]
