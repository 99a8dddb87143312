"""Check that a callback keeps what every callback promises."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._checks import check_count
from odyssey_jax._types import (
    Callback,
    Clock,
    Event,
    Point,
    PyTree,
    Reporting,
    Signal,
    StopReason,
    TrainState,
)
from odyssey_jax.callbacks import (
    Best,
    asks_to_save,
    asks_to_stop,
    bests_of,
    callback_signature,
    restores_best,
)
from odyssey_jax.store import Store
from odyssey_jax.testing._compare import (
    check,
    check_arrays,
    check_form,
    check_hashable,
    check_same,
    equal,
    leaves,
    plain,
    stack,
)
from odyssey_jax.transforms import scale_by_callback

_STEPS = 10  # to an epoch

Step = tuple[PyTree, Signal]  # what an update returns
Update = Callable[[PyTree, Event], Step]


def check_callback(
    callback: Callback,
    metrics: Sequence[str] = ("train/loss", "valid/loss"),
    *,
    state: TrainState | None = None,
    epochs: int = 5,
    seed: int = 0,
) -> None:
    """Check a callback of one's own: that it can be compiled, batched, saved and resumed.

    It is shown some epochs with random metrics, NaN and infinity among them. Then

    - it is hashable, and equal to a copy of itself: a compiled program is found by it;
    - `init` and `update` give arrays, of which `update` leaves the structure, shapes and dtypes as
      they are; so it does with the train state, if it changes that; the signal is a `Signal`;
    - `update` changes nothing of what it is given, and gives the same when it is called again;
    - under `jax.jit` and `jax.vmap` both do what they do without;
    - what it says about itself (see `Callback`) holds: one that never stops or saves does not, the
      bests are in its state, and the signature is JSON and the same for a copy;
    - what it reports, if it is `Reporting`, are scalars, always under the same names;
    - restored at any point, from a `Store` too, a copy of it goes on as if nothing had been.

    Args:
        callback: The one to check.
        metrics: The names of the metrics that it needs.
        state: The train state to show to it; by default a few parameters, a model state, and the
            optimizer state of `scale_by_callback()`.
        epochs: How many epochs to show, at least 2.
        seed: Of the random metrics, at least 0.

    Raises:
        AssertionError: If it does not do one of these; the message says which, and the remedy.
        ValueError: If `epochs` is less than 2.

    Example:
        >>> import odyssey_jax as ody
        >>> ody.testing.check_callback(ody.early_stopping("valid/loss", patience=3))
    """
    epochs = check_count("epochs", epochs, 2)
    fresh = copy.deepcopy(callback)
    try:
        _check_value(callback)
        state = _example_state() if state is None else state
        runs = [_events(callback.points, metrics, state, epochs, seed + i) for i in range(2)]
        first = _check_init(callback, *(events[-1] for events in runs))
        with jax.disable_jit():  # where a loop or a condition would be compiled anew each time
            whole = _check_update(callback, first, runs[0])
        _check_compiled(callback, first, runs, whole)
        _check_report(callback, [first, *(state for state, _ in whole)])
        _check_members(callback, fresh, whole)
        _check_restored(fresh, first, runs[0], whole)
    except AssertionError as error:
        raise AssertionError(f"{callback!r}: {error}") from error


def _check_value(callback: Any) -> None:
    form = not isinstance(callback, type) and isinstance(callback, Callback)
    check(form, "a callback needs points, init(event) and update(state, event).")
    known = isinstance(callback.points, tuple) and callback.points
    check(
        known and all(isinstance(point, Point) for point in callback.points),
        f"points must be a tuple of ody.Point, got {callback.points!r}.",
    )
    frozen = "make it a frozen dataclass, with no arrays, lists or dicts in its fields."
    check_hashable("it", callback, copy.copy(callback), frozen)


def _example_state() -> TrainState:
    params = {"w": jnp.arange(6, dtype=jnp.float32).reshape(2, 3), "b": jnp.ones(3)}
    model_state = {"mean": jnp.ones(3), "count": jnp.ones((), jnp.int32)}
    return TrainState(params, model_state, (scale_by_callback().init(params),))


def _events(
    points: Sequence[Point], metrics: Sequence[str], state: TrainState, epochs: int, seed: int
) -> list[Event]:
    """Return what happens in a run, as far as the callback sees it."""
    values = np.random.default_rng(seed).normal(size=(epochs, len(metrics))).astype(np.float32)
    values[epochs // 2], values[-1] = np.nan, np.inf

    def at(point: Point, epoch: int) -> Event:
        step = _STEPS * (epoch + 1)
        known = dict(zip(metrics, map(jnp.asarray, values[epoch]), strict=True))
        if point in (Point.TRAIN_BEGIN, Point.EPOCH_BEGIN):
            step, known = _STEPS * epoch, {}
        elif point is Point.LOSS_NOT_FINITE:
            step, known = step - 1, {"train/loss": jnp.float32(np.nan)}
        clock = Clock(jnp.int32(step), jnp.int32(epoch))
        params = jax.tree.map(lambda x: x * jnp.asarray(epoch + seed, x.dtype), state.params)
        return Event(known, clock, state._replace(params=params), point, epochs)

    once = {Point.TRAIN_BEGIN: 0, Point.LOSS_NOT_FINITE: 1, Point.TRAIN_END: epochs - 1}
    in_order = [(epoch, point) for epoch in range(epochs) for point in Point if point in points]
    return [at(point, epoch) for epoch, point in in_order if once.get(point, epoch) == epoch]


def _check_init(callback: Callback, event: Event, other: Event) -> PyTree:
    # Of an epoch's end, whichever the points: that is what a loop makes the states of.
    state = callback.init(event)
    check_arrays("the state{} that init makes", state)
    check_same("init under jax.jit", jax.jit(callback.init)(event), state)
    member = lambda metrics, train: callback.init(_seen(event, metrics, train))
    pair = stack(event.metrics, other.metrics), stack(event.state, other.state)
    both = stack(state, callback.init(other))
    check_same("init under jax.vmap", jax.jit(jax.vmap(member))(*pair), both)
    return state


def _seen(event: Event, metrics: Any, train: Any) -> Event:
    """Return the event as a member of a population sees it, with what is the member's own."""
    return Event(metrics, event.clock, train, event.point, event.capacity)


def _check_update(callback: Callback, state: PyTree, events: list[Event]) -> list[Step]:
    """Show it a run without compilation; return the states and signals on the way."""
    steps: list[Step] = []
    for event in events:
        given = leaves((state, event))
        step = callback.update(state, event)
        pair = isinstance(step, tuple) and len(step) == 2
        check(pair, f"update must return (state, signal), got {step!r}.")
        new, signal = step
        check(isinstance(signal, Signal), f"update must return a Signal second, got {signal!r}.")
        check_arrays("the state{} that update returns", new)
        check_form("state", new, state)
        check_form("signal", signal._replace(state=None), Signal.none())
        if signal.state is not None:
            check_form("train state", signal.state, event.state)
        check(equal(leaves((state, event)), given), "update changed what it was given.")
        check_same("update, called again with the same,", callback.update(state, event), step)
        steps.append(step)
        state = new
    return steps


def _check_compiled(
    callback: Callback, first: PyTree, runs: list[list[Event]], whole: list[Step]
) -> None:
    jitted = jax.jit(callback.update)
    check_same("update under jax.jit", _play(jitted, first, runs[0]), whole)
    other = _play(callback.update, first, runs[1])

    @jax.jit
    def batched(state: PyTree, event: Event, metrics: Any, train: Any) -> Step:
        def member(state: PyTree, metrics: Any, train: Any) -> Step:
            return callback.update(state, _seen(event, metrics, train))

        return jax.vmap(member)(state, metrics, train)

    states = stack(first, first)
    for a, b, alone, beside in zip(*runs, whole, other, strict=True):
        step = batched(states, a, stack(a.metrics, b.metrics), stack(a.state, b.state))
        check_same("update under jax.vmap", step, stack(alone, beside))
        states = step[0]


def _check_report(callback: Callback, states: list[PyTree]) -> None:
    if not isinstance(callback, Reporting):
        return
    first = sorted(callback.report(states[0]))
    for state in states:
        columns = callback.report(state)
        scalars = isinstance(columns, Mapping) and all(jnp.ndim(x) == 0 for x in columns.values())
        check(scalars, f"report must return a dict of name to scalar, got {columns!r}.")
        same = sorted(columns) == first
        check(same, f"report gives {sorted(columns)}, after {first}: the names never change.")
    report = lambda state: dict(callback.report(state))
    check_same("report under jax.jit", jax.jit(report)(states[-1]), report(states[-1]))


def _check_members(callback: Callback, fresh: Callback, steps: list[Step]) -> None:
    for name in ("asks_to_save", "asks_to_stop", "restore_best"):
        value = getattr(callback, name, False)
        check(isinstance(value, bool), f"{name} must be True or False, got {value!r}.")
    saves = any(bool(signal.save) for _, signal in steps)
    check(asks_to_save(callback) or not saves, "asks_to_save is False, and update asks for a save.")
    stops = any(int(signal.stop) != StopReason.NONE for _, signal in steps)
    check(asks_to_stop(callback) or not stops, "asks_to_stop is False, and update stops.")
    check(
        not restores_best(callback) or Point.TRAIN_END in callback.points,
        "restore_best is True, but it does not act at Point.TRAIN_END, where that is done.",
    )
    for tracked in bests_of(callback, steps[-1][0]):
        good = isinstance(tracked.best, Best) and isinstance(tracked.monitor, str | None)
        check(good, f"bests must give (monitor, Best, restores), got {tracked!r}.")
        check(
            restores_best(callback) or not tracked.restores,
            "bests gives one that is restored, and restore_best is False.",
        )
    signature = callback_signature(callback)
    try:
        text = json.dumps(signature)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"signature must give a JSON value, got {signature!r}.") from error
    same = json.loads(text) == callback_signature(fresh) and " at 0x" not in text
    check(same, f"signature must be the same for a copy and in each process, got {signature!r}.")


def _check_restored(fresh: Callback, first: PyTree, events: list[Event], whole: list[Step]) -> None:
    update = jax.jit(fresh.update)
    states = [first, *(state for state, _ in whole)]
    for position in range(len(events)):
        restored = jax.tree.map(lambda x: jnp.asarray(np.array(x)), plain(states[position]))
        restored = jax.tree.map(_as_it_was, restored, states[position])
        rest = _play(update, restored, events[position:])
        check_same(f"a copy that goes on from event {position}", rest, whole[position:])
    middle = len(events) // 2
    with tempfile.TemporaryDirectory() as directory, Store(directory) as store:
        # Not the state alone, which may have no leaf.
        store.save(0, {"own": states[middle], "at": jnp.int32(middle)}, {})
        store.wait()
        restored = store.restore({"own": fresh.init(events[-1]), "at": jnp.int32(0)}).tree["own"]
    check_form("state from a Store", restored, first)
    rest = _play(update, restored, events[middle:])
    check_same("a copy that goes on from a Store", rest, whole[middle:])


def _play(update: Update, state: PyTree, events: list[Event]) -> list[Step]:
    steps: list[Step] = []
    for event in events:
        state, signal = update(state, event)
        steps.append((state, signal))
    return steps


def _as_it_was(x: jax.Array, example: Any) -> jax.Array:
    if jnp.issubdtype(example.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(x, impl=jax.random.key_impl(example))
    return x
