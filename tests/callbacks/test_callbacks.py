"""The other callbacks, their chain, and what holds for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax as ody
from odyssey_jax._types import Callback


def event(epoch=0, loss=0.0, params=None, point=ody.Point.EPOCH_END):
    state = ody.TrainState({"w": jnp.zeros(3)} if params is None else params)
    metrics = {"loss": jnp.float32(loss), "table": jnp.zeros((2, 2), jnp.int32)}
    return ody.Event(metrics, ody.Clock(jnp.int32(epoch * 7), jnp.int32(epoch)), state, point, 8)


ALL = [
    ody.early_stopping("loss", 3),
    ody.early_stopping("loss", 3, restore_best=True),
    ody.track_best("loss"),
    ody.checkpoint(every_epochs=2, keep_best=2, monitor="loss"),
    ody.checkpoint(ody.every(epochs=3) & ~ody.callbacks.at(epochs=6) | ody.after(epochs=9)),
    ody.callbacks.on(ody.every(epochs=2), ody.track_best("loss")),
    ody.callbacks.log(),
    ody.roll_back("loss", factor=1, divergence_factor=3),
    ody.terminate_on_nan("loss"),
    ody.max_steps(9),
    ody.all_of(ody.early_stopping("loss", 2, smoothing=0.5), ody.early_stopping("loss", 1)),
    ody.chain(),
    ody.chain(
        ody.early_stopping("loss", 2), ody.chain(ody.track_best("loss"), ody.callbacks.log(4))
    ),
]


@pytest.mark.parametrize("callback", ALL, ids=repr)
def test_structure_shapes_and_dtypes_never_change(callback):
    state = callback.init(event())
    for point in callback.points:
        new, signal = jax.eval_shape(callback.update, state, event(point=point))
        assert jax.tree.structure(new) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
            assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
        assert (signal.stop.dtype, signal.detail.dtype, signal.save.dtype) == (
            jnp.int32,
            jnp.int32,
            bool,
        )


@pytest.mark.parametrize("callback", ALL, ids=repr)
def test_is_a_hashable_value(callback):
    assert isinstance(callback, Callback)
    assert eval(repr(callback), {**vars(ody.callbacks)}) == callback
    assert hash(eval(repr(callback), {**vars(ody.callbacks)})) == hash(callback)


def test_track_best_keeps_a_copy_of_the_best():
    callback = ody.track_best("loss", mode="max")
    state = callback.init(event())
    assert not state.seen
    for epoch, loss in enumerate([1.0, 3.0, 2.0, jnp.nan]):
        state, signal = callback.update(state, event(epoch, loss, {"w": jnp.full(3, loss)}))
        assert not signal.stop
        assert not signal.save
    assert (int(state.epoch), int(state.step), float(state.value)) == (1, 7, 3.0)
    np.testing.assert_array_equal(state.snapshot[0]["w"], np.full(3, 3.0))


def test_log_is_a_table_of_the_scalars():
    callback = ody.callbacks.log()
    history = callback.init(event())
    assert list(history.metrics) == ["loss"]
    for epoch in range(10):  # two more than there is room for: the last row is the newest
        history, _ = callback.update(history, event(epoch, epoch / 2))
    assert int(history.length) == 10
    assert history.epoch.tolist() == [0, 1, 2, 3, 4, 5, 6, 9]
    assert history.step.tolist()[-1] == 63
    with pytest.raises(ValueError, match=r"pass log\(capacity=...\)"):
        callback.init(ody.Event({"loss": 0.0}))
    for capacity in (0, True, 2.5):
        with pytest.raises(ValueError, match="capacity must be an integer of at least 1"):
            ody.callbacks.log(capacity)


def test_a_history_by_itself():
    metrics = {"b": 0.0, "a": jnp.int32(0), "table": jnp.zeros(2)}
    history = ody.callbacks.History.empty(3, metrics)
    assert list(history.metrics) == ["a", "b"]
    put = jax.jit(lambda history, metrics, clock: history.append(metrics, clock))
    new = put(history, {"a": 5, "b": 1.5, "more": 0.0}, ody.Clock(7, 0))
    jax.tree.map(
        lambda x, y: np.testing.assert_equal((x.shape, x.dtype), (y.shape, y.dtype)), new, history
    )
    assert (int(new.length), new.step.tolist()) == (1, [7, 0, 0])
    assert (new.metrics["a"].tolist(), new.metrics["b"].tolist()) == ([5, 0, 0], [1.5, 0, 0])
    with pytest.raises(ValueError, match="no metric 'a'; the scalar metrics are: b"):
        history.append({"b": 0.0}, ody.Clock(7, 0))


def stop_with(reason, save=False):
    def update(state, event):
        del event
        signal = ody.Signal.none()._replace(stop=jnp.int32(reason), save=jnp.asarray(save))
        return state, signal

    return ody.callback(lambda event: None, update)


def test_chain_takes_the_first_reason_and_any_save():
    none, first, second = (
        ody.StopReason.NONE,
        ody.StopReason.COMPLETED,
        ody.StopReason.NOT_FINITE,
    )
    both = ody.chain(stop_with(none, save=True), stop_with(first), stop_with(second))
    _, signal = both.update(both.init(event()), event())
    assert (int(signal.stop), bool(signal.save)) == (first, True)


def test_two_stoppers_in_either_order():
    patient, hasty = ody.early_stopping("loss", 5), ody.early_stopping("loss", 2)
    for both in (ody.chain(patient, hasty), ody.chain(hasty, patient)):
        state = both.init(event())
        for epoch in range(6):
            state, signal = both.update(state, event(epoch, 1.0))
            if signal.stop:
                break
        assert (epoch, int(signal.detail)) == (2, 2)


# Two metrics, and at which epoch and by whose patience each of them stops.
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ody.any_of(ody.early_stopping("a_loss", 2), ody.early_stopping("b_loss", 3)), (2, 2)),
        (ody.all_of(ody.early_stopping("a_loss", 2), ody.early_stopping("b_loss", 3)), (7, 4)),
        (ody.all_of(ody.early_stopping("b_loss", 3), ody.early_stopping("a_loss", 2)), (7, 3)),
        (ody.all_of(ody.early_stopping("a_loss", 2)), (2, 2)),
        (
            ody.all_of(
                ody.any_of(ody.early_stopping("a_loss", 9), ody.early_stopping("a_loss", 4)),
                ody.early_stopping("b_loss", 1),
            ),
            (7, 4),
        ),
        (
            ody.any_of(
                ody.all_of(ody.early_stopping("a_loss", 2), ody.early_stopping("b_loss", 9)),
                ody.early_stopping("b_loss", 2),
            ),
            (6, 2),
        ),
    ],
)
def test_any_of_and_all_of(rule, expected):
    a, b = [5, 5, 5, 4, 4, 4, 4, 4, 4], [9, 8, 7, 6, 5, 5, 5, 5, 5]
    at = lambda epoch: ody.Event({"a_loss": a[epoch], "b_loss": b[epoch]}, ody.Clock(epoch, epoch))
    state = rule.init(at(0))
    for epoch in range(len(a)):
        state, signal = rule.update(state, at(epoch))
        if signal.stop:
            break
    assert (epoch, int(signal.detail)) == expected


def test_all_of_does_whatever_else_its_members_ask_for():
    reached = ody.StopReason.REQUESTED
    both = ody.all_of(stop_with(reached, save=True), stop_with(ody.StopReason.NONE))
    _, signal = both.update(both.init(event()), event())
    assert (int(signal.stop), bool(signal.save)) == (ody.StopReason.NONE, True)


def test_a_rule_that_can_never_stop_is_refused():
    begin = ody.callback(lambda event: None, broken, [ody.Point.EPOCH_BEGIN])
    with pytest.raises(ValueError, match="no point at which all act:.*at .'epoch_end'"):
        ody.all_of(ody.early_stopping("a_loss", 1), begin)
    with pytest.raises(ValueError, match="all_of needs at least one callback"):
        ody.all_of()
    with pytest.raises(ValueError, match="any_of needs at least one callback"):
        ody.any_of()
    with pytest.raises(TypeError, match="3 is no callback"):
        ody.all_of(3)


def test_the_door_to_the_train_state_is_passed_along_a_chain():
    def add_one(state, event):
        params = jax.tree.map(lambda x: x + 1, event.state.params)
        return state, ody.Signal.none()._replace(state=event.state._replace(params=params))

    both = ody.chain(*[ody.callback(lambda event: None, add_one)] * 2)
    _, signal = both.update(both.init(event()), event())
    np.testing.assert_array_equal(signal.state.params["w"], np.full(3, 2.0))


def test_a_callback_is_only_called_at_its_points():
    seen = []

    def update(state, event):
        seen.append(event.point)
        return state, ody.Signal.none()

    begin, end = ody.Point.EPOCH_BEGIN, ody.Point.EPOCH_END
    both = ody.chain(
        ody.callback(lambda event: None, update, [begin]), ody.callback(lambda event: 0, update)
    )
    assert both.points == (begin, end)
    for point in both.points:
        both.update(both.init(event()), event(point=point))
    assert seen == [begin, end]


def test_chains_are_laid_out_flat():
    a, b, c = ody.callbacks.log(), ody.track_best("loss"), ody.early_stopping("loss", 1)
    assert ody.chain(a, ody.chain(b, ody.chain(c))) == ody.chain(ody.chain(a, b), c)


@pytest.mark.parametrize(
    "form", [lambda s: s.astype(jnp.float32), lambda s: (s, s), lambda s: s[None]]
)
def test_a_state_that_changes_its_form_is_named(form):
    growing = ody.callback(
        lambda event: jnp.zeros((), jnp.int32), lambda s, e: (form(s), ody.Signal.none())
    )
    both = ody.chain(ody.callbacks.log(), growing)
    with pytest.raises(TypeError, match="the state that update returns has another form") as caught:
        both.update(both.init(event()), event())
    assert "FunctionCallback" in caught.value.__notes__[0]


def broken(state, event):
    raise RuntimeError("boom")


def test_a_callback_that_raises_is_named():
    both = ody.chain(ody.callbacks.log(), ody.callback(lambda event: None, broken))
    with pytest.raises(RuntimeError, match="boom") as caught:
        both.update(both.init(event()), event())
    assert "broken" in caught.value.__notes__[0]
    assert "epoch_end" in caught.value.__notes__[0]


BAD_SIGNALS = [
    (None, r"update must return \(state, signal\), the signal a Signal; got \(None, None\)"),
    (ody.Signal(False, 0, False), "signal's stop must be an integer and a scalar, got False: make"),
    (ody.Signal(0, np.zeros(2, int), False), "signal's detail must be an integer and a scalar"),
    (ody.Signal(0, 0, 1), "signal's save must be a bool and a scalar, got 1"),
]


@pytest.mark.parametrize(("signal", "message"), BAD_SIGNALS)
def test_a_signal_that_no_loop_can_act_on_is_named(signal, message):
    own = ody.chain(ody.callback(lambda event: None, lambda state, event: (state, signal)))
    with pytest.raises(TypeError, match=message) as caught:
        own.update(own.init(event()), event())
    assert "FunctionCallback" in caught.value.__notes__[0]


def test_python_numbers_are_a_state_and_a_signal_too():
    def update(state, event):
        state = {"n": 3, "x": jnp.where(event.metric("loss") > 0, 0.0, 1.0), "key": state["key"]}
        params = jax.tree.map(lambda x: jnp.where(x > 0, 1.0, 0.0), event.state.params)
        asked = ody.Signal(ody.StopReason.REQUESTED, 0, True)
        return state, asked._replace(state=event.state._replace(params=params))

    first = {"n": jnp.int32(0), "x": jnp.float32(0), "key": jax.random.key(0)}
    own = ody.chain(ody.callback(lambda event: first, update))
    form = jax.eval_shape(own.update, own.init(event()), event())
    weak = [x.weak_type for x in jax.tree.leaves(form)]
    assert not any(weak), "the next call would be another program"
    (state,), signal = own.update(own.init(event()), event())
    assert (int(state["n"]), int(signal.stop), bool(signal.save)) == (3, 5, True)


def test_what_is_no_callback_is_refused():
    with pytest.raises(TypeError, match=r"3 is no callback.*ody.callback\(init, update\)"):
        ody.chain(3)
    with pytest.raises(TypeError, match=r"ody.chain\(\*callbacks\)"):
        ody.chain([ody.callbacks.log(3)])
    with pytest.raises(ValueError, match="points must be of Point.TRAIN_BEGIN.*'epoch_end'"):
        ody.callback(lambda event: None, broken, ["epoch_end"])
    with pytest.raises(ValueError, match="points must be of Point.TRAIN_BEGIN.*got 'epoch_end'"):
        ody.chain(ody.callbacks.log(3), Misnamed())
    for points in (ody.Point.EPOCH_END, []):
        with pytest.raises(ValueError, match=r"points must be a sequence of ody.Point, at least"):
            ody.callback(lambda event: None, broken, points)
    with pytest.raises(TypeError, match="init must be a function, got 3"):
        ody.callback(3, broken)


class Misnamed:
    points = ("epoch_end",)

    def init(self, event):
        return None

    update = broken


@pytest.mark.parametrize("reason", list(ody.StopReason))
def test_every_reason_has_a_sentence(reason):
    assert reason.sentence(3)
    assert "1 epochs" not in reason.sentence(1)
