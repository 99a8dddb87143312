"""A run as one compiled program over data on the device."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from odyssey_jax._opt_state import found_elsewhere
from odyssey_jax._types import ModelState, Point, PyTree, Signal, Task, TrainState
from odyssey_jax.callbacks import Ranking, bests_of
from odyssey_jax.data import Calendar, checksum
from odyssey_jax.train._carry import Carry, Inputs, Keys, fresh_copy
from odyssey_jax.train._describe import Description, describe
from odyssey_jax.train._fingerprint import of_program
from odyssey_jax.train._loop import (
    Loop,
    changed_to_validate,
    end_compiled,
    finish_compiled,
    form_of_batch,
    init_compiled,
    measure_compiled,
    run_compiled,
    run_jaxpr,
)
from odyssey_jax.train._program import Finished, Progress, scalars
from odyssey_jax.train._unchanged import Unchanged, has_untrained
from odyssey_jax.train._validation import as_sets


class Resident:
    """A `Program` that is one `lax.while_loop`: see `Loop.run`.

    Args:
        task: What is trained.
        loop: From `make_loop`, with a `capacity`.
        inputs: The data and the schedule.
    """

    def __init__(self, task: Task, loop: Loop, inputs: Inputs):
        if loop.capacity is None:
            raise ValueError("a program needs room for its history: make_loop(capacity=...).")
        self.task, self.loop = task, loop
        # The rate's numbers too, once: as NumPy's they would be moved at every call.
        learning_rate, total = jax.device_put((inputs.learning_rate, inputs.total_steps))
        inputs = inputs._replace(learning_rate=learning_rate, total_steps=total)
        self.inputs = loop.placement.put(inputs)
        self.calendar = Calendar.of(inputs.train, loop.steps_per_epoch, loop.last_step)
        self._watched: set[Any] = set()
        self._untrained: bool | None = None
        self.unchanged = Unchanged()

    @property
    def signature(self) -> Mapping[str, Any]:
        """What decides which batch and which key belong to a step: it may not change."""
        return {
            **self.inputs.train.signature(),
            "steps_per_epoch": self.calendar.epoch,
            "accumulate_steps": self.loop.options.accumulate_steps,
        }

    def record(self, carry: Carry) -> Mapping[str, Any]:
        """Return the room that a carry has."""
        assert carry.history is not None
        samples = min((len(x) for x in (carry.samples or {}).values()), default=0)
        return {"capacity": len(carry.history.epoch), "sample_capacity": samples}

    def init(self, key: jax.Array) -> Carry:
        """Make the carry of a run that has not begun, in buffers of its own."""
        placement = self.loop.placement
        params, model_state = placement.init(self.task.init, Keys.init_of(key))
        key = placement.put(key)
        carry = init_compiled(self.loop, key, params, model_state, self.inputs)
        return self._placed(carry)

    def _placed(self, carry: Carry) -> Carry:
        """Return a carry that the host has changed where it belongs."""
        return self.loop.placement.place(carry, carry.state)

    def run(
        self, carry: Carry, limit: int, columns: Mapping[str, float] | None = None
    ) -> tuple[Carry, Progress]:
        """Train to a step, or until the host is asked for; the carry given is donated.

        It comes up for no columns: a loop that has some is refused.
        """
        del columns
        carry = self.with_room(carry, limit)
        carry = run_compiled(self.loop, carry, self.inputs, limit)
        if self._untrained is None:  # the structure says it, which stays as it is
            self._untrained = has_untrained(carry)
        if self._untrained and not self._watched:
            self._watch(run_jaxpr(self.loop, carry, self.inputs), carry)
        return carry, self.look(carry)

    def _watch(self, jaxpr: Any, carry: Carry, form: Any = None) -> None:
        """Take note of what a program leaves as it was, where something is not trained."""
        self._watched.add(form)
        self.unchanged.note(jaxpr, carry, bests_of(self.loop.callbacks, carry.callbacks))

    def with_room(self, carry: Carry, limit: int) -> Carry:
        """Return a carry with room for the rows and samples up to a step, and a loop for it.

        The room is doubled, so a run compiles again for the logarithm of its length only, and
        when as much of it is over.
        """
        loop, calendar = self.loop, self.calendar
        # A block is run to its end, and reaches across none of an epoch.
        last = min(limit + calendar.block - 1, calendar.epoch_end(limit - 1))
        needed = {"capacity": calendar.epochs(last)}
        if loop.sampling is not None:
            needed["sample_capacity"] = last // loop.sampling.every + 1
        room = {name: getattr(loop, name) for name in needed}
        if all(needed[name] <= room[name] for name in needed):
            return carry
        for name in needed:
            while room[name] < needed[name]:
                room[name] *= 2
        self.loop = dataclasses.replace(loop, **room)
        callbacks = self._callbacks_with_room(carry)
        carry = _with_room(carry, {"sample_capacity": 0, **room})
        return self._placed(carry._replace(callbacks=callbacks))

    def _callbacks_with_room(self, carry: Carry) -> PyTree:
        """Return the callbacks' states in the room of the loop: only `init` knows what fills it."""
        params, model_state = carry.state.params, carry.state.model_state
        fresh = lambda: self.loop.init(carry.key, params, model_state, self.inputs).callbacks
        same = lambda new, old: new.shape == old.shape
        if jax.tree.all(jax.tree.map(same, jax.eval_shape(fresh), carry.callbacks)):
            return carry.callbacks
        put = lambda new, old: (
            old if same(new, old) else new.at[tuple(map(slice, old.shape))].set(old)
        )
        return jax.tree.map(put, jax.jit(fresh)(), carry.callbacks)

    def look(self, carry: Carry) -> Progress:
        """Return the progress of a carry as it is."""
        assert carry.history is not None
        sampling = self.loop.sampling
        return Progress(
            step=carry.clock.step,
            epoch=carry.clock.epoch,
            stop=carry.signal.stop,
            detail=carry.signal.detail,
            save=carry.signal.save,
            rows=carry.history,
            samples=carry.samples or {},
            every=0 if sampling is None else sampling.every,
            latest=carry.latest,
            cadences=self.loop.cadences,
        )

    def measure(
        self, carry: Carry, sets: Collection[str], leave: Callable[[], bool] = lambda: False
    ) -> dict[str, float] | None:
        """Measure sets of the validation data with a carry as it is."""
        del leave  # nothing is waited for
        found = {name: x for name, x in as_sets(self.inputs.valid).items() if name in sets}
        if not found:
            return {}
        return scalars(measure_compiled(self.loop, carry, found, self._given))

    @property
    def _given(self) -> Inputs:
        """The inputs without the data."""
        return self.inputs._replace(train=cast(Any, None), valid=None)

    def state(self, carry: Carry) -> TrainState:
        """Return the train state of a carry."""
        return carry.state

    def validated(self, carry: Carry) -> TrainState:
        """Return the state that is validated at the end of an epoch, which has not ended yet."""
        # A copy: a hook may keep it, and the carry is donated.
        return changed_to_validate(self.loop, carry, self._given)[0]

    def close(self) -> None:
        """Give back threads and files: there are none."""

    def finish(self, carry: Carry) -> Finished:
        """Let the callbacks act at the end of the training, such as to restore the best."""
        callbacks = self.loop.callbacks
        if Point.TRAIN_END in callbacks.points:
            state = finish_compiled(self.loop, carry).state
        else:  # nothing to compile
            state = carry.state.for_evaluation
        # Its parameters are the average's already, or the best epoch's.
        state = state._replace(average=None)
        return Finished(state, bests_of(callbacks, carry.callbacks))

    def describe(self, memory_bytes: int | None) -> Description:
        """Say what the run takes, without making any of its arrays."""
        return describe(self.task, self.loop, self.inputs, memory_bytes)

    def made_of(self, carry: Carry) -> dict[str, Any]:
        """Return fingerprints of what the run is made of: functions, data, randomness."""
        batch = form_of_batch(self.inputs.train)
        valid = self.inputs.valid
        config = jax.config
        return {
            **of_program(self.loop, carry.state, batch, self.inputs.total_steps),
            "training data": checksum(self.inputs.train),
            "validation data": None if valid is None else checksum(valid),
            "evaluation": {
                name: own for name, how in self.loop.evaluations if (own := how.signature())
            },
            **{f"cadence of {name!r}": repr(when) for name, when in self.loop.columns},
            "random numbers": {
                "impl": str(jax.random.key_impl(carry.key)),
                "partitionable": bool(config.jax_threefry_partitionable),  # pyright: ignore
            },
            "x64": bool(config.jax_enable_x64),  # pyright: ignore
        }

    def result_paths(self, carry: Carry) -> dict[str, Any]:
        """Return where in the saved tree the parameters are that were measured, and the result's.

        The two differ where a callback restores the best epoch. Some optimizers are evaluated at
        other parameters than lie there: `elsewhere` says of which part, and where in their state.
        """
        averaged = carry.state.average is not None
        measured = "state/average" if averaged else "state"
        paths = {"params": f"{measured}/params", "model_state": f"{measured}/model_state"}
        divided = isinstance(carry.state.model_state, ModelState)
        if divided:  # no average is taken of what is untrained
            paths["model_state"] += "/updated"
            paths["untrained"] = "state/model_state/untrained"
        result, monitor = dict(paths), None
        for tracked in bests_of(self.loop.callbacks, carry.callbacks):
            best = tracked.best
            if tracked.restores and best.snapshot is not None and bool(best.seen):
                where = f"callbacks/{_path_of(best, carry.callbacks)}/snapshot"
                result = {"params": f"{where}/0", "model_state": f"{where}/1"}
                if divided:
                    result["untrained"] = f"{where}/1/untrained"
                    result["model_state"] += "/updated"
                monitor = tracked.monitor
        elsewhere = [
            [kind, part, f"state/opt_state/{path}".rstrip("/")]
            for kind, part, path in found_elsewhere(carry.state.opt_state)
        ]
        return {"measured": paths, "result": result, "monitor": monitor, "elsewhere": elsewhere}

    def to_save(self, carry: Carry) -> PyTree:
        """Return what of a carry is saved: the ranking follows from the history."""
        return carry._replace(ranking=None)

    def constant(self, carry: Carry) -> Sequence[str]:
        """Return the nodes of what is saved that no step changes: see `Program.constant`."""
        return self.unchanged.names(carry, self.to_save(carry))

    def target(self, carry: Carry, record: Mapping[str, Any]) -> PyTree:
        """Return a tree of the form in which a program with this record saved."""
        return self.to_save(_with_room(carry, record))

    def restored(
        self,
        saved: PyTree,
        carry: Carry,
        *,
        decide_anew: bool,
        fresh: Collection[str] = (),
        reading: Any = None,
    ) -> Carry:
        """Make a carry of a saved tree: see `Program.restored`."""
        del reading
        restored = _with_room(saved, self.record(carry))
        history = restored.history
        assert history is not None
        measured = jnp.arange(history.epoch.shape[0]) >= history.length
        columns = {
            # Of the epochs before, a new metric has no value.
            name: jnp.where(measured, x, jnp.nan) if f"history/metrics/{name}" in fresh else x
            for name, x in history.metrics.items()
        }
        restored = restored._replace(history=history._replace(metrics=columns))
        if decide_anew:
            restored = restored._replace(signal=fresh_copy(Signal.none()))
        kept = self.loop.keep_best
        if kept is not None and kept.monitor is not None:
            rows = self.look(restored).fetch().history()
            ranking = Ranking.of(kept.score(rows[kept.monitor]), kept.keep_best)
            # Committed only where the run's arrays are: otherwise jit would compile again.
            like = carry.clock.step
            ranking = jax.device_put(ranking, like.sharding if like.committed else None)
            restored = restored._replace(ranking=ranking)
        return self._go_on(self._placed(restored))

    def _go_on(self, carry: Carry) -> Carry:
        """End an epoch that was left when its steps were done: `Loop.run` would train on."""
        clock = jax.device_get(carry.clock)
        if self.calendar.epochs(int(clock.step)) == int(clock.epoch):
            return carry
        return end_compiled(self.loop, carry, self.inputs)


def _path_of(node: Any, tree: PyTree) -> str:
    """Return the path of a node in a tree, as a checkpoint names it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is node)
    path = next(path for path, leaf in leaves if leaf is node)
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _with_room(carry: Carry, record: Mapping[str, Any]) -> Carry:
    """Return a carry with as much room for history and samples as recorded."""
    history, samples = carry.history, carry.samples
    assert history is not None
    resize = functools.partial(_resized, capacity=record["capacity"])
    history = history._replace(
        epoch=resize(history.epoch),
        step=resize(history.step),
        metrics=jax.tree.map(resize, history.metrics),
    )
    if samples is not None:
        resize = functools.partial(_resized, capacity=record["sample_capacity"])
        samples = jax.tree.map(resize, samples)
    return carry._replace(history=history, samples=samples)


def _resized(column: jax.Array, capacity: int) -> jax.Array:
    if column.shape[0] == capacity:
        return column
    return jnp.pad(column, (0, max(0, capacity - column.shape[0])))[:capacity]
