"""Whether a callback keeps what every callback promises."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._types import (
    Callback,
    Clock,
    Event,
    Point,
    PyTree,
    Reporting,
    Signal,
    TrainState,
)
from odyssey_jax.store import Store
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
    """Checks a callback of one's own: that it can be compiled, batched, saved and resumed.

    It is shown some epochs with random metrics, NaN and infinity among them. Then

    - it is hashable, and equal to a copy of itself: a compiled program is found by it;
    - `init` and `update` give arrays, of which `update` leaves the structure, shapes and dtypes as
      they are; so it does with the train state, if it changes that; the signal is a `Signal`;
    - `update` changes nothing of what it is given, and gives the same when it is called again;
    - under `jax.jit` and `jax.vmap` both do what they do without;
    - what it reports, if it is `Reporting`, are scalars, always under the same names;
    - restored at any point, from a `Store` too, a copy of it goes on as if nothing had been.

    Args:
        callback: the one to check.
        metrics: the names of the metrics that it needs.
        state: the train state to show to it; by default a few parameters, a model state, and the
            optimizer state of `scale_by_callback()`.
        epochs: how many epochs to show, at least 2.
        seed: of the random metrics, at least 0.

    Raises:
        AssertionError: it does one of these not; the message says which, and the remedy.
        ValueError: `epochs` is less than 2.

    Example:
        >>> import odyssey_jax as ody
        >>> ody.testing.check_callback(ody.early_stopping("valid/loss", patience=3))
    """
    if epochs < 2:
        raise ValueError(f"epochs must be at least 2, got {epochs!r}.")
    fresh = copy.deepcopy(callback)
    try:
        _check_value(callback)
        state = _example_state() if state is None else state
        runs = [_events(callback.points, metrics, state, epochs, seed + i) for i in range(2)]
        first = _check_init(callback, *(events[-1] for events in runs))
        whole = _check_update(callback, first, runs[0])
        _check_compiled(callback, first, runs, whole)
        _check_report(callback, [first, *(state for state, _ in whole)])
        _check_restored(fresh, first, runs[0], whole)
    except AssertionError as error:
        raise AssertionError(f"{callback!r}: {error}") from error


def _check_value(callback: Any) -> None:
    form = not isinstance(callback, type) and isinstance(callback, Callback)
    _assert(form, "a callback needs points, init(event) and update(state, event).")
    known = isinstance(callback.points, tuple) and callback.points
    _assert(
        known and all(isinstance(point, Point) for point in callback.points),
        f"points must be a tuple of ody.Point, got {callback.points!r}.",
    )
    frozen = "make it a frozen dataclass, with no arrays, lists or dicts in its fields."
    try:
        same = callback == copy.copy(callback) and hash(callback) == hash(copy.copy(callback))
    except TypeError as error:
        raise AssertionError(f"it can't be hashed ({error}): {frozen}") from error
    _assert(same, f"it is not equal to a copy of itself, so each is compiled anew: {frozen}")


def _example_state() -> TrainState:
    params = {"w": jnp.arange(6, dtype=jnp.float32).reshape(2, 3), "b": jnp.ones(3)}
    model_state = {"mean": jnp.ones(3), "count": jnp.ones((), jnp.int32)}
    return TrainState(params, model_state, (scale_by_callback().init(params),))


def _events(
    points: tuple[Point, ...], metrics: Sequence[str], state: TrainState, epochs: int, seed: int
) -> list[Event]:
    """What happens in a run, as far as the callback sees it."""
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
    _assert_arrays("init makes", state)
    _assert_same("init under jax.jit", jax.jit(callback.init)(event), state)
    member = lambda metrics, train: callback.init(_seen(event, metrics, train))
    pair = _stack(event.metrics, other.metrics), _stack(event.state, other.state)
    both = _stack(state, callback.init(other))
    _assert_same("init under jax.vmap", jax.jit(jax.vmap(member))(*pair), both)
    return state


def _seen(event: Event, metrics: Any, train: Any) -> Event:
    """The event as a member of a population sees it, with what is the member's own."""
    return Event(metrics, event.clock, train, event.point, event.capacity)


def _check_update(callback: Callback, state: PyTree, events: list[Event]) -> list[Step]:
    """Shows it a run without compilation; the states and signals on the way."""
    steps: list[Step] = []
    for event in events:
        given = _leaves((state, event))
        step = callback.update(state, event)
        pair = isinstance(step, tuple) and len(step) == 2
        _assert(pair, f"update must return (state, signal), got {step!r}.")
        new, signal = step
        _assert(isinstance(signal, Signal), f"update must return a Signal second, got {signal!r}.")
        _assert_arrays("update returns", new)
        _assert_form("state", new, state)
        _assert_form("signal", signal._replace(state=None), Signal.none())
        if signal.state is not None:
            _assert_form("train state", signal.state, event.state)
        _assert(_equal(_leaves((state, event)), given), "update changed what it was given.")
        _assert_same("update, called again with the same,", callback.update(state, event), step)
        steps.append(step)
        state = new
    return steps


def _check_compiled(
    callback: Callback, first: PyTree, runs: list[list[Event]], whole: list[Step]
) -> None:
    jitted = jax.jit(callback.update)
    _assert_same("update under jax.jit", _play(jitted, first, runs[0]), whole)
    other = _play(callback.update, first, runs[1])

    @jax.jit
    def batched(state: PyTree, event: Event, metrics: Any, train: Any) -> Step:
        def member(state: PyTree, metrics: Any, train: Any) -> Step:
            return callback.update(state, _seen(event, metrics, train))

        return jax.vmap(member)(state, metrics, train)

    states = _stack(first, first)
    for a, b, alone, beside in zip(*runs, whole, other, strict=True):
        step = batched(states, a, _stack(a.metrics, b.metrics), _stack(a.state, b.state))
        _assert_same("update under jax.vmap", step, _stack(alone, beside))
        states = step[0]


def _check_report(callback: Callback, states: list[PyTree]) -> None:
    if not isinstance(callback, Reporting):
        return
    first = sorted(callback.report(states[0]))
    for state in states:
        columns = callback.report(state)
        scalars = isinstance(columns, Mapping) and all(jnp.ndim(x) == 0 for x in columns.values())
        _assert(scalars, f"report must return a dict of name to scalar, got {columns!r}.")
        same = sorted(columns) == first
        _assert(same, f"report gives {sorted(columns)}, after {first}: the names never change.")
    report = lambda state: dict(callback.report(state))
    _assert_same("report under jax.jit", jax.jit(report)(states[-1]), report(states[-1]))


def _check_restored(fresh: Callback, first: PyTree, events: list[Event], whole: list[Step]) -> None:
    update = jax.jit(fresh.update)
    states = [first, *(state for state, _ in whole)]
    for position in range(len(events)):
        restored = jax.tree.map(lambda x: jnp.asarray(np.array(x)), _plain(states[position]))
        restored = jax.tree.map(_as_it_was, restored, states[position])
        rest = _play(update, restored, events[position:])
        _assert_same(f"a copy that goes on from event {position}", rest, whole[position:])
    middle = len(events) // 2
    with tempfile.TemporaryDirectory() as directory, Store(directory) as store:
        # Not the state alone, which may have no leaf.
        store.save(0, {"own": states[middle], "at": jnp.int32(middle)}, {})
        store.wait()
        restored = store.restore({"own": fresh.init(events[-1]), "at": jnp.int32(0)}).tree["own"]
    _assert_form("state from a Store", restored, first)
    rest = _play(update, restored, events[middle:])
    _assert_same("a copy that goes on from a Store", rest, whole[middle:])


def _play(update: Update, state: PyTree, events: list[Event]) -> list[Step]:
    steps: list[Step] = []
    for event in events:
        state, signal = update(state, event)
        steps.append((state, signal))
    return steps


def _stack(*trees: PyTree) -> PyTree:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _plain(tree: PyTree) -> PyTree:
    """The tree with its keys as numbers, which NumPy can hold."""
    is_key = lambda x: jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def _as_it_was(x: jax.Array, example: Any) -> jax.Array:
    if jnp.issubdtype(example.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(x, impl=jax.random.key_impl(example))
    return x


def _leaves(tree: PyTree) -> tuple[Any, list[np.ndarray]]:
    return jax.tree.structure(tree), [np.array(x) for x in jax.tree.leaves(_plain(tree))]


def _equal(a: Any, b: Any) -> bool:
    same = all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a[1], b[1], strict=False))
    return a[0] == b[0] and same


def _form(tree: PyTree) -> tuple[Any, list[str]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [f"{jnp.result_type(x)}{list(jnp.shape(x))}" for x in leaves]


def _assert(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _assert_arrays(whose: str, state: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        where = f"the state{jax.tree_util.keystr(path)} that {whose}"
        array = isinstance(leaf, (jax.Array, np.ndarray, np.generic))
        _assert(array, f"{where} is {leaf!r}: make it an array, with its dtype.")


def _assert_form(what: str, tree: PyTree, example: PyTree) -> None:
    _assert(
        _form(tree) == _form(example),
        f"the {what} has another form than it had: {_form(tree)} instead of {_form(example)}; "
        "structure, shapes and dtypes never change.",
    )


def _assert_same(what: str, tree: PyTree, expected: PyTree) -> None:
    _assert_form(f"result of {what}", tree, expected)
    pairs = zip(_leaves(tree)[1], _leaves(expected)[1], strict=True)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    for path, (x, y) in zip(paths, pairs, strict=True):
        exact = not jnp.issubdtype(y.dtype, jnp.inexact)
        # What is compiled may round the last digit otherwise.
        near = (x == y) if exact else np.isclose(x, y, rtol=1e-5, atol=1e-7, equal_nan=True)
        _assert(
            np.all(near),
            f"{what} gives {x} and not {y} at {path}: it must be a function of its arguments "
            "alone, with jnp.where or lax.cond for a decision.",
        )
