"""What callbacks say about themselves, through every wrapper of ours and for a user's own."""

import dataclasses
import enum
import functools
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax as ody
from odyssey_jax.callbacks import (
    Best,
    Tracked,
    as_chain,
    asks_to_save,
    asks_to_stop,
    bests_of,
    callback_signature,
    on,
    restores_best,
)

EVENT = ody.Event(
    {"a_loss": 0.0, "b_loss": 0.0}, state=ody.TrainState({"w": jnp.ones(2)}), capacity=4
)
STOPPING = ody.early_stopping("a_loss", 2, restore_best=True)
TRACKING = ody.track_best("b_loss", mode="max")
SAVING = ody.checkpoint(keep_best=1, monitor="a_loss")
RULE = ody.reduce_on_plateau(0.5, 1)


def wrapped(callback):
    """The callback in each wrapper of ours, and in several."""
    often = ody.every(epochs=2)
    return [
        ody.chain(callback),
        ody.any_of(callback),
        ody.all_of(callback),
        on(often, callback),
        ody.all_of(on(often, ody.chain(ody.any_of(callback)))),
    ]


@dataclasses.dataclass(frozen=True)
class Own:
    """A user's callback that says nothing."""

    limit: float = 1.0
    names: tuple = ()
    points = (ody.Point.EPOCH_END,)

    def init(self, event):
        return jnp.zeros(())

    def update(self, state, event):
        return state, ody.Signal.none()


@dataclasses.dataclass(frozen=True)
class Wrapper(Own):
    """A user's wrapper that delegates."""

    callback: ody.Callback = TRACKING

    @property
    def asks_to_save(self):
        return asks_to_save(self.callback)

    @property
    def asks_to_stop(self):
        return asks_to_stop(self.callback)

    @property
    def restore_best(self):
        return restores_best(self.callback)

    def init(self, event):
        return {"inner": self.callback.init(event)}

    def bests(self, state):
        return bests_of(self.callback, state["inner"])

    def signature(self):
        return ("Wrapper", callback_signature(self.callback))


@dataclasses.dataclass(frozen=True)
class Holding(Own):
    """A user's callback with a best in its state, by our convention."""

    monitor: str = "a_loss"

    def init(self, event):
        return {"mine": TRACKING.init(event), "others": jnp.zeros(3)}


class Plain:
    points, init, update = Own.points, Own.init, Own.update


@pytest.mark.parametrize(
    ("callback", "saves", "stops"),
    [
        (STOPPING, False, True),
        (ody.any_of(STOPPING), False, True),
        (ody.max_steps(9), False, True),
        (ody.terminate_on_nan(), False, True),
        (ody.roll_back(), False, True),
        (TRACKING, False, False),
        (ody.adapt_rate("a_loss", RULE), False, False),
        (ody.callbacks.log(), False, False),
        (SAVING, True, False),
        (Own(), True, True),
        (Plain(), True, True),
        (ody.callback(Own.init, Own.update), True, True),
        (ody.callback(Own.init, Own.update, saves=False), False, True),
        (ody.callback(Own.init, Own.update, stops=False), True, False),
    ],
)
def test_what_a_callback_may_ask_for_through_every_wrapper(callback, saves, stops):
    # A checkpoint has a condition of its own, and is not put on another.
    ours = [ody.chain(callback)] if callback is SAVING else wrapped(callback)
    for one in [callback, Wrapper(callback=callback), *ours]:
        assert (asks_to_save(one), asks_to_stop(one)) == (saves, stops), one


def test_several_together():
    assert not asks_to_save(ody.chain())
    assert not asks_to_stop(ody.chain())
    assert asks_to_save(ody.chain(TRACKING, SAVING))
    assert asks_to_stop(ody.chain(TRACKING, STOPPING))
    assert asks_to_save(ody.all_of(TRACKING, SAVING))
    assert not asks_to_stop(ody.all_of(TRACKING, STOPPING)), "the one holds the other back"


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (STOPPING, [("a_loss", True)]),
        (ody.early_stopping("b_loss", 2), [("b_loss", False)]),
        (TRACKING, [("b_loss", False)]),
        (Holding(), [("a_loss", False)]),
        (Own(), []),
        (ody.callbacks.log(), []),
        (ody.callback(TRACKING.init, TRACKING.update), [(None, False)]),
    ],
)
def test_which_bests_it_holds_through_every_wrapper(callback, expected):
    for one in [callback, Wrapper(callback=callback), *wrapped(callback)]:
        found = bests_of(one, one.init(EVENT))
        assert [(tracked.monitor, tracked.restores) for tracked in found] == expected, one
        assert all(isinstance(tracked, Tracked) for tracked in found)
        assert all(isinstance(tracked.best, Best) for tracked in found)
        assert restores_best(one) == any(restores for _, restores in expected)


def test_bests_come_in_the_order_of_the_callbacks():
    both = ody.chain(Wrapper(), Own(), ody.all_of(STOPPING, Holding()))
    found = bests_of(both, both.init(EVENT))
    assert [tracked.monitor for tracked in found] == ["b_loss", "a_loss", "a_loss"]


def test_two_that_restore_are_found_in_a_users_wrapper_too():
    with pytest.raises(ValueError, match="one callback may restore the best"):
        ody.chain(STOPPING, Wrapper(callback=STOPPING))
    with pytest.raises(ValueError, match="one callback may restore the best"):
        ody.all_of(STOPPING, STOPPING)


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("callback", "signature"),
    [
        (
            ody.early_stopping("a_loss", 2),
            {"name": "EarlyStopping", "monitor": "a_loss", "patience": 2},
        ),
        (ody.track_best("a_loss"), {"name": "TrackBest", "monitor": "a_loss"}),
        (ody.terminate_on_nan(), {"name": "TerminateOnNan"}),
        (ody.chain(), {"name": "Chain", "callbacks": []}),
        (
            ody.all_of(ody.max_steps(9)),
            {"name": "AllOf", "callbacks": [{"name": "MaxSteps", "steps": 9}]},
        ),
        (
            on(ody.every(epochs=2) & ~ody.after(epochs=9), ody.callbacks.log()),
            {
                "name": "On",
                "when": "every(epochs=2) & ~after(epochs=9)",
                "callback": {"name": "Log"},
            },
        ),
        (ody.checkpoint(), {"name": "Checkpoint"}),
        (
            ody.checkpoint(ody.every(seconds=9.5), keep_best=1, monitor="a_loss"),
            {
                "name": "Checkpoint",
                "when": "every(seconds=9.5)",
                "retention": {"name": "Retention", "keep_best": 1, "monitor": "a_loss"},
            },
        ),
        (Own(), {"name": "Own"}),
        (Own(1), {"name": "Own"}),
        (Own(2, ("x", 1.5)), {"name": "Own", "limit": 2, "names": ["x", 1.5]}),
        (Own(names=Color.RED), {"name": "Own", "names": "RED"}),
        (Own(float("nan")), {"name": "Own", "limit": "nan"}),
        (Own(names=frozenset("ba")), {"name": "Own", "names": ["a", "b"]}),
        (
            Own(np.float32(2), np.arange(2)),
            {
                "name": "Own",
                "limit": {"dtype": "float32", "values": 2.0},
                "names": {"dtype": "int64", "values": [0, 1]},
            },
        ),
        (
            Own(names=functools.partial(max, 1)),
            {
                "name": "Own",
                "names": {
                    "name": "partial",
                    "function": {"name": "max"},
                    "args": [1],
                    "keywords": {},
                },
            },
        ),
        (
            Own(names=(Own(2).init, Own.init)),
            {
                "name": "Own",
                "names": [
                    {"name": "Own.init", "of": {"name": "Own", "limit": 2}},
                    {"name": "Own.init"},
                ],
            },
        ),
        (Plain(), "<tests.callbacks.test_members.Plain object>"),
        (
            Wrapper(callback=Own(2)),
            ["Wrapper", {"name": "Own", "limit": 2}],
        ),
        (
            ody.callback(Own.init, Own.update, saves=False),
            {
                "name": "FunctionCallback",
                "init": {"name": "Own.init"},
                "update": {"name": "Own.update"},
                "points": ["EPOCH_END"],
                "asks_to_save": False,
            },
        ),
    ],
)
def test_signature(callback, signature):
    assert callback_signature(callback) == signature
    assert json.loads(json.dumps(callback_signature(callback))) == signature


def test_a_rule_is_part_of_the_signature():
    slow, quick = (ody.adapt_rate("a_loss", ody.reduce_on_plateau(0.5, n)) for n in (5, 1))
    assert callback_signature(slow) != callback_signature(quick)
    assert callback_signature(slow)["rule"]["patience"] == 5


def test_the_signature_is_the_same_in_another_process():
    code = (
        "import json, odyssey_jax as ody\n"
        "from odyssey_jax.callbacks import callback_signature\n"
        "def update(state, event): ...\n"
        "own = ody.callback(lambda event: None, update)\n"
        "print(json.dumps(callback_signature(ody.chain(own, ody.roll_back(at_most=2)))))"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
        for _ in range(2)
    )
    assert first.stdout == second.stdout
    assert json.loads(first.stdout)["callbacks"][1] == {"name": "RollBack", "at_most": 2}


def test_bad_statements_are_refused():
    with pytest.raises(ValueError, match="saves must be True or False, got 'no'"):
        ody.callback(Own.init, Own.update, saves="no")
    with pytest.raises(ValueError, match="stops must be True or False, got None"):
        ody.callback(Own.init, Own.update, stops=None)


def test_a_list_of_callbacks_is_a_chain():
    several = [ody.early_stopping("train/loss", patience=3), ody.track_best("train/loss")]
    assert as_chain(several) == as_chain(ody.chain(*several)) == ody.chain(*several)
    assert as_chain([]) == as_chain(None) == ody.chain()
    with pytest.raises(TypeError, match="chain"):
        as_chain([several])


@pytest.mark.parametrize(
    "callback", [ody.early_stopping("loss", patience=1), ody.track_best("loss")]
)
def test_a_loop_of_ones_own_asks_for_the_best(callback):
    event = lambda epoch, loss: ody.Event({"loss": loss}, ody.Clock(step=epoch, epoch=epoch))
    state = callback.init(event(0, 0.0))
    for epoch, loss in enumerate([2.0, 1.0, 3.0]):
        state, _ = callback.update(state, event(epoch, loss))
    assert (float(callback.best(state).value), int(callback.best(state).epoch)) == (1.0, 1)
