"""The length of a run in epochs or in steps, and evaluations in a cadence of their own."""

import io

import numpy as np
import optax
import pytest
from rich.console import Console

import odyssey_jax as ody
from odyssey_jax.data import Calendar
from tests import examples
from tests.examples import assert_same
from tests.sources import Read

PASS = 5  # train steps of a pass over the data of 40 examples


def fit(directory=None, train=None, valid=None, **kwargs):
    how = {"learning_rate": 0.05, "writers": [], **kwargs}
    train = examples.train_data() if train is None else train
    valid = examples.valid_data() if valid is None else valid
    return ody.fit(examples.linear_task(), optax.adam, train, valid, directory=directory, **how)


def leave_at(step):
    def leave(view):
        if view.step >= step:
            raise KeyError("left here")

    return [ody.hook(leave, ody.every(steps=1))]


SOURCES = {
    "here": examples.train_data,
    "here, with a smaller batch": lambda: examples.train_data(batch_size=7, drop_remainder=False),
    "read": Read,
}


@pytest.mark.parametrize("steps", [13, 3])
@pytest.mark.parametrize("source", SOURCES)
def test_a_run_of_steps_ends_there_with_a_row(source, steps, tmp_path):
    run = lambda directory, **more: fit(directory, SOURCES[source](), steps=steps, **more)
    whole = run(tmp_path / "whole")
    each = whole.history["step"][0] if steps == 13 else steps
    assert whole.history["step"].tolist() == [*range(each, steps, each), steps]
    assert (whole.steps, whole.epochs) == (steps, steps // each if steps == 13 else 0)
    assert whole.reason == f"completed all {steps} steps"
    assert whole.metrics["valid/loss"] == float(whole.history["valid/loss"][-1])
    with pytest.raises(KeyError, match="left here"):
        run(tmp_path / "cut", hooks=leave_at(steps - 1))
    cut = run(tmp_path / "cut")
    assert_same(cut.carry, whole.carry)
    assert run(tmp_path / "cut").reason == whole.reason  # nothing is left to train


def test_the_same_steps_are_the_same_run():
    by_steps, by_epochs = fit(steps=3 * PASS), fit(epochs=3)
    assert_same(by_steps.carry, by_epochs.carry)
    assert by_steps.reason == by_epochs.reason == "completed all 3 epochs"


def test_a_row_is_an_evaluation_and_an_epoch_a_pass(tmp_path):
    seen, measured = [], []

    def measure(view):
        measured.append(view.step)
        return {"mine": view.step}

    result = fit(
        tmp_path / "run",
        valid={
            "valid": examples.valid_data(),
            "rare": ody.Evaluation(examples.valid_data(), every=ody.every(steps=12)),
        },
        epochs=4,
        validate=ody.every(steps=4),
        learning_rate=ody.constant(0.1).then(ody.constant(0.01), ody.schedules.epochs(2)),
        callbacks=[ody.checkpoint(every_epochs=2, keep_last=None)],
        hooks=[
            ody.hook(lambda view: seen.append((view.step, view.epoch)), ody.every(epochs=1)),
            ody.hook(measure, ody.every(steps=8), columns=("mine",)),
        ],
    )
    history = result.history
    assert history["step"].tolist() == [4, 8, 12, 16, 20]
    assert history["epoch"].tolist() == [0, 1, 2, 3, 4]
    # Two passes have 10 steps: the rate of the last step before each row.
    rates = [0.1, 0.1, 0.01, 0.01, 0.01]
    np.testing.assert_allclose(history["learning_rate"], rates, rtol=1e-6)
    assert seen == [(5, 1), (10, 2), (15, 3), (20, 4)]
    assert measured == [8, 16]
    assert np.isfinite(history["valid/rare/loss"]).tolist() == [False, False, True, False, False]
    assert ody.store.Reader(tmp_path / "run" / "checkpoints").steps() == (10, 20)
    assert (result.epochs, result.reason) == (4, "completed all 20 steps")


@pytest.mark.parametrize("source", ["here", "read"])
def test_evaluations_within_a_pass_change_nothing_of_the_training(source):
    often = fit(train=SOURCES[source](), epochs=4, validate=ody.every(steps=2))
    seldom = fit(train=SOURCES[source](), epochs=4, validate=ody.every(epochs=2))
    plain = fit(train=SOURCES[source](), epochs=4)
    assert (len(often.history["step"]), len(seldom.history["step"])) == (10, 2)
    for other in (often, seldom):
        assert_same(np.asarray(other.history["valid/loss"][-1]), plain.history["valid/loss"][-1])


def test_a_patience_counts_evaluations_and_says_so():
    stop = ody.early_stopping("train/loss", patience=3, mode="max")
    result = fit(steps=100, validate=ody.every(steps=2), callbacks=stop)
    assert (result.steps, result.reason) == (8, "no improvement for 3 evaluations")


def test_a_run_is_made_longer_where_its_last_evaluation_came_in_time(tmp_path):
    how = {"validate": ody.every(steps=4)}
    fit(tmp_path / "run", steps=8, **how)
    longer = fit(tmp_path / "run", steps=12, **how)
    assert_same(longer.carry, fit(steps=12, **how).carry)
    fit(tmp_path / "cut", steps=10, **how)
    with pytest.raises(ValueError, match=r"complete at step 10, .* came early, 2 train steps"):
        fit(tmp_path / "cut", steps=12, **how)


def test_a_stream_of_unknown_length_is_trained_by_steps():
    with pytest.raises(ValueError, match="how many batches .* is not known. Or say when to"):
        fit(train=Read(endless=True), steps=6)
    with pytest.raises(ValueError, match="how many batches .* is not known"):
        fit(train=Read(endless=True), epochs=6, validate=ody.every(steps=3))
    result = fit(train=Read(endless=True), steps=6, validate=ody.every(steps=3))
    assert result.history["step"].tolist() == [3, 6]


def test_the_progress_line_counts_epochs_of_the_data_and_steps_of_rows():
    text = io.StringIO()
    line = ody.ProgressLine(Console(file=text, width=200))
    fit(epochs=4, validate=ody.every(steps=4), writers=[line])
    lines = [x.split("  ")[0] for x in text.getvalue().splitlines()]
    assert lines[-1] == "step 20/20"  # not every row has a line, where they come fast
    assert set(lines) <= {f"step {step}/20" for step in (4, 8, 12, 16, 20)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"exactly one of epochs and steps, got epochs=None and steps=None"),
        ({"epochs": 1, "steps": 5}, r"exactly one of epochs and steps, got epochs=1 and steps=5"),
        ({"steps": 0}, "steps must be an integer"),
        ({"epochs": 1, "validate": ody.every(seconds=3)}, r"validate=every\(seconds=3\) must be"),
        ({"epochs": 1, "validate": ody.until(steps=3)}, r"must be every\(steps=...\)"),
        (
            {
                "epochs": 1,
                "valid": {"a": ody.Evaluation(examples.valid_data(), every=ody.every(steps=6))},
            },
            r"every=every\(steps=6\): steps=6 is no multiple of the 5 train steps",
        ),
        (
            {"epochs": 4, "validate": ody.every(steps=3), "valid": {
                "a": ody.Evaluation(examples.valid_data(), every=ody.every(epochs=1))}},
            r"every=every\(epochs=1\): epochs=1 is no multiple of the 3",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        fit(**given)


def test_a_condition_is_asked_for():
    with pytest.raises(TypeError, match="validate must be a condition such as"):
        fit(epochs=1, validate=100)


@pytest.mark.parametrize("last", [1, 4, 7, 13, 14])
def test_no_block_reaches_across_the_end_of_a_run(last):
    for batch_size, drop in ((8, True), (7, False), (13, False)):
        source = examples.train_data(batch_size, drop)
        calendar = Calendar.of(source, None, last)
        full, length = calendar.full, calendar.data_pass
        ends = {last} | {p * length + x for p in range(3) for x in (0, full)}
        step = 0
        while step < last:  # as a loop goes: by a block, or by the smaller batch
            before, small = step, step % length == full
            step += 1 if small else calendar.block
            assert not [end for end in ends if before < end < step]
        assert step == last
        assert calendar.epochs(last) == -(-last // length)
        assert calendar.ends_epoch(last)
        assert calendar.epoch_end(last - 1) == last
