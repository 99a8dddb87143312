"""`fit` with an `Evaluation`: resumed, monitored, reported and refused."""

import io
import json

import numpy as np
import optax
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import odyssey_jax as ody
from tests import examples
from tests.examples import assert_same
from tests.sources import Read

EPOCHS = 9
EVERY = ody.every(epochs=3)
DUE = [2, 5, 8]


def valid_data(kind):
    return examples.valid_data() if kind == "here" else Read(batch_size=8, examples=22, seed=1)


def ood(kind="here", **options):
    how = {"every": EVERY, "batches": 2, "metrics": {"top1": ody.Accuracy()}, **options}
    return ody.Evaluation(valid_data(kind), **how)


def fit(directory=None, valid=None, epochs=EPOCHS, train=None, **kwargs):
    valid = {"valid": examples.valid_data(), "ood": ood()} if valid is None else valid
    how = {"learning_rate": 0.05, "writers": [], **kwargs}
    train = train or examples.train_data()
    return ody.fit(
        examples.linear_task(), optax.adam, train, valid, epochs=epochs, directory=directory, **how
    )


def leave_at(step):
    def leave(view):
        if view.step >= step:
            raise KeyError("left here")

    return [ody.hook(leave, ody.every(steps=1))]


@pytest.mark.parametrize("kind", ["here", "read"])
def test_a_run_that_is_left_anywhere_goes_on_to_the_bit(kind, tmp_path):
    def run(directory, **kwargs):
        sets = {"valid": valid_data(kind), "ood": ood(kind, at_start=True)}
        callbacks = ody.chain(
            ody.early_stopping("valid/ood/top1", patience=2, restore_best=True),
            ody.checkpoint(keep_best=1, monitor="valid/ood/loss"),
        )
        train = examples.train_data() if kind == "here" else Read()
        return fit(directory, sets, train=train, callbacks=callbacks, **kwargs)

    whole = run(tmp_path / "whole")
    for step in (3, 10, 15, 30, 38):
        with pytest.raises(KeyError, match="left here"):
            run(tmp_path / "cut", hooks=leave_at(step))
    cut = run(tmp_path / "cut")
    assert_same(cut.carry, whole.carry)
    assert_same(dict(cut.history), dict(whole.history))
    assert (cut.metrics, cut.reason) == (whole.metrics, whole.reason)
    assert cut.best_epoch in DUE
    assert "valid/ood/top1" in cut.metrics
    assert cut.metrics_at_start == whole.metrics_at_start
    assert cut.metrics_at_start.keys() == {"valid/ood/loss", "valid/ood/top1"}
    reader = ody.store.Reader(tmp_path / "cut" / "checkpoints")
    losses = whole.history["valid/ood/loss"]
    assert 5 * (1 + int(np.nanargmin(losses))) in reader.steps()
    metadata = reader.metadata(reader.latest())
    assert metadata["metrics"].keys() == set(cut.metrics)  # it ended where it was measured


@pytest.fixture(scope="module")
def result():
    return fit(epochs=7)


def test_what_was_not_measured_is_passed_off_as_nothing(result):
    measured = ~np.isnan(result.history["valid/ood/loss"])
    assert np.flatnonzero(measured).tolist() == [2, 5]
    names = {"learning_rate", "train/loss", "valid/valid/loss"}
    assert result.metrics.keys() == result.last_metrics.keys() == names
    assert result.metrics_at_start == {}
    names, *rows = (line.split() for line in repr(result.history).splitlines())
    at = names.index("valid/ood/loss")
    assert [row[at] == "-" for row in rows] == (~measured).tolist()
    assert "nan" not in repr(result.history)


def test_a_single_set_may_be_one(result):
    alone = fit(valid=ood(at_start=True), epochs=7)
    for name in ("loss", "top1"):
        want = result.history[f"valid/ood/{name}"]
        np.testing.assert_array_equal(alone.history[f"valid/{name}"], want)
    assert alone.metrics_at_start["valid/loss"] == pytest.approx(np.log(3))


def test_at_the_start_the_average_or_the_first_parameters_are_measured():
    far = ood(at_start=True, batches=None, metrics={})
    found = fit(valid=far, epochs=3, average=ody.exponential_average(0.9)).metrics_at_start
    task = examples.linear_task()
    state = ody.TrainState(*task.init(None))
    want = ody.evaluate(task, state, examples.valid_data())
    assert found == {"valid/loss": pytest.approx(float(want["loss"]))}


def test_a_metric_knows_its_direction_in_every_set():
    sets = {"plain": examples.valid_data(), "ood": ood(metrics={"second": ody.Accuracy()})}
    tracked = [ody.track_best("valid/plain/first"), ody.track_best("valid/ood/second")]
    result = fit(valid=sets, epochs=3, metrics={"first": ody.Accuracy()},
                 callbacks=ody.chain(*tracked))  # fmt: skip
    for name, best in result.bests.items():
        assert float(best.value) == np.nanmax(result.history[name])


def test_patience_counts_evaluations():
    bad = ody.early_stopping("valid/ood/loss", patience=2, min_delta=9.0)
    result = fit(epochs=20, callbacks=bad)
    assert (result.epochs, result.reason) == (9, "no improvement for 2 evaluations")


def test_a_cadence_is_part_of_the_run(tmp_path):
    fit(tmp_path, epochs=2)
    for other in (ood(every=ody.every(epochs=2)), ood(batches=1), ood(every=None)):
        with pytest.raises(ValueError, match="begun with another evaluation. Use the same"):
            fit(tmp_path, {"valid": examples.valid_data(), "ood": other})
    sets = {"valid": examples.valid_data(), "ood": ood(every=ody.every(epochs=4), at_start=True)}
    result = fit(tmp_path, sets, run_change="accept")
    assert np.flatnonzero(~np.isnan(result.history["valid/ood/loss"])).tolist() == [3, 7]
    assert result.metrics_at_start == {}  # it had begun


def test_writers_log_what_was_measured(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    writers = [ody.ProgressLine(console), ody.JsonLines(), ody.CsvFile(), ody.TensorBoard()]
    sets = {"valid": examples.valid_data(), "ood": ood(at_start=True)}
    each_epoch = ody.hook(lambda view: None)
    for epochs in (4, 7):
        result = fit(tmp_path, sets, epochs=epochs, writers=writers, hooks=[each_epoch])
    shown = console.file.getvalue().splitlines()
    assert ["valid/ood/loss" in line for line in shown] == [e in DUE for e in range(7)]
    assert "nan" not in console.file.getvalue()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["valid/ood/loss"] is None for row in rows] == [e not in DUE for e in range(7)]
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert {line.count(",") for line in lines} == {header.count(",")}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = {x.step: x.value for x in events.Scalars("valid/ood/loss")}
    assert list(losses) == [0, 15, 30]
    assert losses[0] == pytest.approx(result.metrics_at_start["valid/ood/loss"])
    assert [x.step for x in events.Scalars("valid/valid/loss")] == [5 * n for n in range(1, 8)]
    (run,) = ody.runs.find_runs(tmp_path)
    best = run.best("valid/ood/loss")
    assert best is not None
    assert best.epoch == int(np.nanargmin(result.history["valid/ood/loss"]))


MONITORS = {
    "stopping": ody.early_stopping("valid/ood/loss", 3),
    "wrapped": ody.callbacks.on(ody.every(epochs=2), ody.track_best("valid/ood/loss")),
    "all of": ody.all_of(ody.early_stopping("valid/ood/loss", 3)),
}


@pytest.mark.parametrize("which", MONITORS)
def test_what_is_monitored_and_never_measured_is_refused(which):
    late = {"ood": ood(every=ody.every(epochs=10))}
    message = r"'valid/ood/loss' is monitored, and with epochs=9 it is never measured, since valid"
    with pytest.raises(ValueError, match=message + r"\['ood'\] is every\(epochs=10\)"):
        fit(valid=late, callbacks=MONITORS[which])
    with pytest.raises(ValueError, match=message):
        fit("run", late, callbacks=ody.checkpoint(keep_best=1, monitor="valid/ood/loss"))


@pytest.mark.parametrize(
    ("valid", "kwargs", "message"),
    [
        (ood(), {"metrics": {"a": ody.Accuracy()}}, r"metrics=\['a'\] has no effect, since every"),
        (ood(batches=4), {}, "batches=4 is more than the 3 batches of valid"),
        ({"a": ood("read", batches=6)}, {}, r"6 is more than the 3 batches of valid\['a'\]"),
        ({"a": ood("read")}, {"valid_steps": 2}, "valid_steps=2 has no effect"),
        (
            ody.Evaluation(Read(endless=True)),
            {},
            "valid_steps must be given: how many batches valid=<",
        ),
    ],
)
def test_what_is_refused(valid, kwargs, message):
    with pytest.raises(ValueError, match=message):
        fit(valid=valid, **kwargs)


def test_data_without_an_end_needs_batches_and_arrays_a_batch_size():
    sets = {
        "stream": ody.Evaluation(Read(endless=True), batches=2),
        "arrays": ody.Evaluation(examples.arrays(22, seed=1), every=EVERY),
    }
    result = fit(valid=sets, epochs=3, train=examples.arrays(), batch_size=8)
    assert not np.isnan(result.history["valid/stream/loss"]).any()
    assert np.isnan(result.history["valid/arrays/loss"]).tolist() == [True, True, False]
