"""The writers that fit takes, and what it refuses before anything is trained."""

import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.fit._plan import as_writers, make_plan
from tests import examples

LINES = ody.JsonLines()


def test_any_iterable_of_writers_is_a_list_of_them():
    assert as_writers(writer for writer in (LINES,)) == [LINES]
    assert as_writers(()) == []


@pytest.mark.parametrize(
    ("writers", "error", "message"),
    [
        (LINES, TypeError, "writers must be a list of writers, got <.*JsonLines"),
        ("metrics.csv", TypeError, "writers must be a list of writers, got 'metrics.csv'"),
        ([ody.CsvFile], TypeError, r"CsvFile is a class: pass a writer, such as CsvFile\(...\)"),
        ([LINES, "csv"], TypeError, "'csv' has no open, write, close: a writer has"),
        ([LINES, ody.CsvFile(), LINES], ValueError, "JsonLines.* is there twice"),
    ],
)
def test_what_is_no_writer(writers, error, message):
    with pytest.raises(error, match=message):
        as_writers(writers)


def plan(callbacks, directory="somewhere", **kwargs):
    arguments = {
        "epochs": 2, "learning_rate": None, "metrics": None, "train_metrics": None,
        "steps_per_epoch": None, "options": ody.StepOptions(), "placement": None, "seed": 0,
        "resume": "latest", "schedule_change": "refuse", "writers": [], "config": None,
        "max_time": None, "run_change": "refuse", "on_failed_write": "raise",
        "on_interrupt": "raise", "hooks": (), "batch_size": None, "valid_steps": None,
        "prefetch_bytes": 2**28, "steps": None, "validate": None,
    }  # fmt: skip
    data = examples.train_data()
    given = arguments | {"callbacks": callbacks, "directory": directory} | kwargs
    return make_plan(examples.linear_task(), optax.sgd(0.1), data, data, **given)


BEST = ody.checkpoint(keep_best=1, monitor="valid/loss")
STOPPING = ody.early_stopping("valid/loss", 3)


class Own:
    """A callback of the user's own, which does not say what it may ask for."""

    points = (ody.Point.EPOCH_END,)
    init = staticmethod(lambda event: None)
    update = staticmethod(lambda state, event: (state, ody.Signal.none()))


class OwnThatNeverSaves(Own):
    asks_to_save = False


@pytest.mark.parametrize(
    ("callbacks", "held"),
    [
        (BEST, True),
        (ody.chain(STOPPING, BEST), True),
        (ody.chain(ody.all_of(STOPPING, ody.max_steps(9)), BEST), True),
        (ody.chain(ody.any_of(STOPPING, ody.terminate_on_nan()), BEST), True),
        (ody.chain(ody.callbacks.on(ody.every(epochs=2), STOPPING), BEST), True),
        (ody.chain(ody.all_of(ody.callbacks.on(ody.every(epochs=2), STOPPING)), BEST), True),
        (ody.chain(OwnThatNeverSaves(), BEST), True),
        (ody.chain(ody.all_of(OwnThatNeverSaves(), STOPPING), BEST), True),
        (ody.chain(Own(), BEST), False),
        (ody.chain(ody.callbacks.on(ody.every(epochs=2), Own()), BEST), False),
        (ody.chain(ody.all_of(STOPPING, Own()), BEST), False),
        (ody.checkpoint(keep_best=2, monitor="valid/loss"), False),
        (ody.checkpoint(), False),
    ],
)
def test_a_best_may_wait_unless_a_callback_may_ask_for_a_save(callbacks, held):
    assert plan(callbacks).holds_pending_best is held


def test_a_plan_touches_nothing_and_is_immutable(tmp_path):
    made = plan(BEST, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AttributeError):
        made.epochs = 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": True}, "seed must be an integer, got True"),
        ({"seed": 1.5}, "seed must be an integer, got 1.5"),
        ({"config": [1]}, r"config must be a mapping such as .*, got \[1\]"),
        ({"config": {"a": float("nan")}}, "config must be JSON, got"),
        ({"on_interrupt": "stop"}, "on_interrupt must be 'raise' or 'return', got 'stop'"),
        ({"on_failed_write": 1}, "on_failed_write must be 'raise' or 'warn', got 1"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        plan(None, **arguments)


@pytest.mark.parametrize("rate", ["0.1", "abc", True, -0.1, float("nan"), float("inf"), [0.1]])
def test_what_is_no_learning_rate(rate):
    with pytest.raises(ValueError, match="learning_rate must be"):
        ody.fit(
            examples.linear_task(), optax.sgd, examples.train_data(), epochs=1,
            learning_rate=rate, writers=[],
        )  # fmt: skip


@pytest.mark.parametrize("options", [{"clip_norm": "1"}, {"clip_norm": True}, {"clip_norm": -1.0}])
def test_what_is_no_norm(options):
    with pytest.raises(ValueError, match="clip_norm must be a number greater than 0 or None, got"):
        ody.StepOptions(**options)


def test_outputs_to_log_are_names():
    for outputs in (3, "loss", [], ["loss", "loss"]):
        with pytest.raises(ValueError, match="log_outputs must be different names"):
            ody.StepOptions(log_every_n_steps=1, log_outputs=outputs)


def test_a_rate_below_zero_is_refused_before_anything_runs(tmp_path):
    task, data = examples.linear_task(), examples.train_data()
    for rate in (optax.linear_schedule(0.1, -0.1, 4), ody.schedules.linear(0.1, -0.1, 4)):
        with pytest.raises(ValueError, match="learning_rate must not be negative, got -0"):
            ody.fit(task, optax.sgd, data, epochs=4, learning_rate=rate, directory=tmp_path / "run")
    assert not (tmp_path / "run").exists()
