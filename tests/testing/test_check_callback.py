"""The checker for callbacks: every one of ours passes, and each broken one is told."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax as ody

LOSS = "valid/loss"
OURS = [
    ody.early_stopping(LOSS, 2),
    ody.early_stopping(
        LOSS, 2, rtol=0.1, baseline=0.0, divergence_factor=9, stopping_threshold=-9, nan="ignore",
        smoothing=0.5, cooldown=1, min_epochs=2, start_from_epoch=1, restore_best=True,
    ),
    ody.track_best(LOSS, mode="max"),
    ody.checkpoint(keep_best=2, monitor=LOSS),
    ody.checkpoint(ody.every(epochs=3) & ~ody.callbacks.at(epochs=6) | ody.after(epochs=2)),
    ody.callbacks.on(ody.every(epochs=2), ody.roll_back(LOSS)),
    ody.callbacks.log(),
    ody.max_steps(20),
    ody.terminate_on_nan(LOSS),
    ody.roll_back(LOSS, divergence_factor=2),
    ody.adapt_rate(LOSS, ody.reduce_on_plateau(0.5, 1)),
    ody.all_of(ody.early_stopping(LOSS, 1, smoothing=0.5), ody.early_stopping("train/loss", 2)),
    ody.chain(ody.callbacks.log(), ody.any_of(ody.roll_back(LOSS), ody.early_stopping(LOSS, 1))),
]  # fmt: skip


@pytest.mark.parametrize("callback", OURS, ids=lambda callback: type(callback).__name__)
def test_ours_pass(callback):
    ody.testing.check_callback(callback)


def test_every_kind_of_ours_is_among_them():
    public = vars(ody.callbacks).values()
    kinds = {x for x in public if inspect.isclass(x) and hasattr(x, "points")}
    checked = {type(callback) for callback in OURS}
    assert kinds - checked <= {ody.callbacks.FunctionCallback}


def test_a_random_key_in_the_state():
    def update(key, event):
        key, used = jax.random.split(key)
        return key, ody.Signal.stop_if(jax.random.uniform(used) < 0.1)

    ody.testing.check_callback(ody.callback(lambda event: jax.random.key(3), update))


def test_at_every_point():
    count = lambda state, event: (state + 1, ody.Signal.none())
    every = ody.callback(lambda event: jnp.zeros((), jnp.int32), count, list(ody.Point))
    ody.testing.check_callback(every)


@dataclasses.dataclass(frozen=True)
class Right:
    """What each of the following breaks in one place."""

    points = (ody.Point.EPOCH_END,)

    def init(self, event):
        return {"worse": jnp.zeros((), jnp.int32)}

    def update(self, state, event):
        worse = jnp.where(event.metric(LOSS) > 0, state["worse"] + 1, 0)
        return {"worse": worse}, ody.Signal.stop_if(worse > 2)


class Unequal:
    points, init, update = Right.points, Right.init, Right.update


@dataclasses.dataclass(frozen=True)
class Unhashable(Right):
    weights: list = dataclasses.field(default_factory=list)


class Pointless(Right):
    points = ("epoch_end",)


class Untyped(Right):
    def init(self, event):
        return {"worse": 0}


class Growing(Right):
    def update(self, state, event):
        return {**state, "more": state["worse"]}, ody.Signal.none()


class Widening(Right):
    def update(self, state, event):
        return {"worse": state["worse"].astype(jnp.float32)}, ody.Signal.none()


class Silent(Right):
    def update(self, state, event):
        return state, True


class Vague(Right):
    def update(self, state, event):
        return state, ody.Signal.none()._replace(stop=jnp.float32(1))


class Mutating(Right):
    def update(self, state, event):
        new, signal = super().update(state, event)
        state["worse"] = new["worse"] + 1
        return new, signal


class Reforming(Right):
    def update(self, state, event):
        return state, ody.Signal.none()._replace(state=event.state._replace(params=()))


CALLS = []


class Remembering(Right):
    def update(self, state, event):
        CALLS.append(event)
        return {"worse": jnp.int32(len(CALLS))}, ody.Signal.none()


class Tracing(Right):
    """Tells whether it is compiled, and does other things then."""

    def update(self, state, event):
        traced = isinstance(event.clock.epoch, jax.core.Tracer)
        return {"worse": state["worse"] + (2 if traced else 1)}, ody.Signal.none()


class Alone(Right):
    """Asks Python, which vmap can't."""

    def init(self, event):
        form = jax.ShapeDtypeStruct((), jnp.int32)
        ask = lambda x: np.int32(0)
        return {"worse": jax.pure_callback(ask, form, event.state.params["b"])}


class Forgetful(Right):
    def update(self, state, event):
        return state


class Reports(Right):
    def report(self, state):
        return {"worse": state["worse"], "constant": 1.0}


class ReportsTable(Right):
    def report(self, state):
        return {"worse": jnp.zeros(3)}


class ReportsNow(Right):
    def report(self, state):
        return {f"worse than {int(state['worse'])}": 1.0}


class Plain(Right):
    """A signal of Python's own numbers, as a loop takes it too."""

    def update(self, state, event):
        return state, ody.Signal(ody.StopReason.NONE, 0, False)


class Resting(Right):
    """Says that it never stops, which it does."""

    asks_to_stop = False

    def update(self, state, event):
        return state, ody.Signal.stop_if(True)


class Thrifty(Right):
    """Says that it never saves, which it does."""

    asks_to_save = False

    def update(self, state, event):
        return state, ody.Signal.none()._replace(save=jnp.ones((), bool))


class Wordy(Right):
    asks_to_save = "never"


class Restoring(Right):
    restore_best = True


class Bests(Right):
    def bests(self, state):
        return [("a", state, False)]


class RestoresNone(Right):
    def init(self, event):
        return ody.track_best(LOSS).init(event)

    def update(self, state, event):
        return state, ody.Signal.none()

    def bests(self, state):
        return [(LOSS, state, True)]


class Addressed(Right):
    def signature(self):
        return object.__repr__(self)


class Says(Right):
    """What is true of it."""

    asks_to_save = restore_best = False
    asks_to_stop = True

    def bests(self, state):
        return ()

    def signature(self):
        return {"name": "says", "options": (1, 2.5)}


class Counting(Right):
    def update(self, state, event):
        return {"worse": 3}, ody.Signal.none()


@pytest.mark.parametrize("right", [Right(), Reports(), Plain(), Says()], ids=repr)
def test_what_is_right_passes(right):
    ody.testing.check_callback(right)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Right, "a callback needs points, init.event. and update"),
        (Unequal(), "not equal to a copy of itself.*frozen dataclass"),
        (Unhashable(), "can't be hashed.*frozen dataclass"),
        (Pointless(), r"points must be a tuple of ody.Point, got \('epoch_end',\)"),
        (Untyped(), r"the state\['worse'\] that init makes is 0: make it an array"),
        (Counting(), r"the state\['worse'\] that update returns is 3: make it an array"),
        (Growing(), "the state has another form than it had.*never change"),
        (Widening(), "the state has another form than it had.*float32"),
        (Silent(), "update must return a Signal second, got True"),
        (Forgetful(), r"update must return \(state, signal\), got {'worse'"),
        (ReportsTable(), "report must return a dict of name to scalar, got {'worse': Array"),
        (ReportsNow(), "report gives .'worse than 1'., after .'worse than 0'.: the names never"),
        (Vague(), "the signal has another form than it had"),
        (Reforming(), "the train state has another form"),
        (Mutating(), "update changed what it was given"),
        (Remembering(), "update, called again with the same, gives"),
        (Resting(), "asks_to_stop is False, and update stops"),
        (Thrifty(), "asks_to_save is False, and update asks for a save"),
        (Wordy(), "asks_to_save must be True or False, got 'never'"),
        (Restoring(), "restore_best is True, but it does not act at Point.TRAIN_END"),
        (Bests(), r"bests must give \(monitor, Best, restores\), got Tracked"),
        (RestoresNone(), "bests gives one that is restored, and restore_best is False"),
        (Addressed(), "signature must be the same for a copy and in each process, got '<"),
        (Tracing(), "update under jax.jit gives 2 and not 1.*function of its arguments alone"),
    ],
)
def test_what_is_wrong_is_told(broken, message):
    with pytest.raises(AssertionError, match=message):
        ody.testing.check_callback(broken)


def test_a_python_decision_is_named_by_jax():
    def update(state, event):
        return state, ody.Signal.stop_if(bool(event.metric(LOSS) > 0))

    with pytest.raises(jax.errors.TracerBoolConversionError):
        ody.testing.check_callback(ody.callback(lambda event: None, update))
    with pytest.raises(NotImplementedError, match="vmap is only supported"):
        ody.testing.check_callback(Alone())
    with pytest.raises(ValueError, match="no metric 'valid/loss'; the scalar metrics are: loss"):
        ody.testing.check_callback(Right(), ["loss"])
    with pytest.raises(ValueError, match="epochs must be an integer of at least 2, got 1"):
        ody.testing.check_callback(Right(), epochs=1)
