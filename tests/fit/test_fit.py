"""fit: resume to the bit, one trace, what is written, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.store import CheckpointMismatchError, CheckpointVersionError
from odyssey_jax.train import _loop, _programs
from tests import examples
from tests.examples import assert_same

EPOCHS = 8


def run(task, directory, epochs=EPOCHS, **kwargs):
    """The whole of it, made anew at each call as a user's script would."""
    callbacks = ody.chain(
        ody.early_stopping("valid/loss", kwargs.pop("patience", 500), restore_best=True),
        ody.checkpoint(every_epochs=3, keep_last=2, keep_best=1, monitor="valid/loss"),
    )
    arguments = {
        "epochs": epochs,
        "learning_rate": ody.warmup_cosine(0.05, 10, 40),
        "metrics": {"accuracy": ody.Accuracy()},
        "callbacks": callbacks,
        "directory": directory,
        "writers": [ody.JsonLines()],
    }
    train = kwargs.pop("train", None) or examples.train_data()
    return ody.fit(
        task, kwargs.pop("optimizer", optax.adamw), train, examples.valid_data(),
        **{**arguments, **kwargs},
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One uninterrupted run, for the tests that only look."""
    directory = tmp_path_factory.mktemp("finished")
    return directory, run(examples.linear_task(), directory)


@pytest.mark.parametrize("name", ["nnx", "linen"])
def test_interrupted_after_every_epoch_equals_uninterrupted(name, tmp_path):
    task = examples.TASKS[name]()
    whole = run(task, tmp_path / "whole")
    for epoch in range(1, EPOCHS + 1):
        part = run(task, tmp_path / "cut", epochs=epoch)
        assert (part.epochs, part.stop_reason) == (epoch, ody.StopReason.COMPLETED)
    # The last save was asked for by the callback in one, by the end in both.
    assert_same(whole.carry, part.carry)
    assert_same(whole.state, part.state)
    assert_same(whole.best, part.best)
    assert_same(dict(whole.history), dict(part.history))
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert lines[0] == lines[1]


def test_a_hundred_epochs_with_five_resumes_trace_the_step_once(tmp_path):
    traces = []

    def loss_fn(params, batch):
        traces.append(1)
        return examples.linear_loss(params, batch)

    params = examples.linear_task().init(None)[0]
    sizes = []
    for epochs in (10, 25, 40, 70, 85, 100):
        result = run(ody.pure_task(params, loss_fn), tmp_path, epochs=epochs)
        newest = list(_programs._found.values())[-1]
        sizes.append((len(traces), newest.jitted(_loop._run_jitted.__wrapped__)._cache_size()))
    assert result.epochs == 100
    assert {compiled for _, compiled in sizes} == {1}
    assert len({traced for traced, _ in sizes}) == 1


def test_run_again_it_is_complete_and_nothing_changes(finished, tmp_path):
    directory, first = finished
    again = run(examples.linear_task(), directory)
    assert again.reason == first.reason == f"completed all {EPOCHS} epochs"
    assert np.isnan(again.steps_per_second)
    assert first.steps_per_second > 0
    assert_same(first.carry, again.carry)
    assert_same(first.state, again.state)


def test_the_result_says_what_happened(finished):
    _, result = finished
    losses = result.history["valid/loss"]
    assert result.history["epoch"].tolist() == list(range(EPOCHS))
    assert result.history["step"].tolist() == [5 * (e + 1) for e in range(EPOCHS)]
    assert result.best_epoch == int(losses.argmin())
    assert float(result.best.value) == losses.min()
    task = examples.linear_task()
    value = ody.evaluate(task, result.state, examples.valid_data())["loss"]
    np.testing.assert_allclose(value, losses.min(), rtol=1e-6)
    # The metrics are those of the model that is returned, ready for JSON.
    assert json.loads(json.dumps(result.metrics))["valid/loss"] == losses.min()
    assert float(result.last_metrics["valid/loss"]) == losses[-1] != losses.min()


def test_what_a_checkpoint_says_of_itself(finished):
    directory, result = finished
    with ody.Store(directory / "checkpoints", keep_last=None) as store:
        metadata = store.metadata(store.latest())
    assert (metadata["step"], metadata["epoch"]) == (EPOCHS * 5, EPOCHS)
    assert metadata["metrics"] == {k: float(v) for k, v in result.last_metrics.items()}
    schedule = ody.Schedule.from_json(json.dumps(metadata["schedule"]))
    assert schedule == ody.warmup_cosine(0.05, 10, 40)
    assert metadata["run"]["batch_size"] == 8
    assert {"jax", "optax", "flax", "odyssey_jax"} <= set(metadata["versions"])
    assert metadata["timestamp"] > 1.7e9
    assert (metadata["stop_reason"], metadata["reason"]) == ("COMPLETED", "completed all 8 epochs")


def test_a_checkpoint_says_why_the_run_ended_and_what_it_took(tmp_path):
    said = []
    for epochs in (4, 6):
        run(examples.linear_task(), tmp_path, epochs=epochs)
        with ody.Store(tmp_path / "checkpoints", keep_last=None) as store:
            said.append([store.metadata(step) for step in store.steps()][-2:])
    (third, fourth), (_, sixth) = said
    assert [x["epoch"] for x in (third, fourth, sixth)] == [3, 4, 6]
    assert [x["stop_reason"] for x in (third, fourth, sixth)] == ["NONE", "COMPLETED", "COMPLETED"]
    assert third["reason"] == "still running"
    assert sixth["reason"] == "completed all 6 epochs"
    assert 0 < third["seconds"] < fourth["seconds"] < sixth["seconds"]


def test_lines_of_json_are_the_history(finished):
    directory, result = finished
    lines = [json.loads(x) for x in (directory / "metrics.jsonl").read_text().splitlines()]
    assert list(lines[0]) == list(result.history)
    for name, column in result.history.items():
        np.testing.assert_array_equal(np.asarray([x[name] for x in lines], column.dtype), column)


def test_files_are_mended_after_a_death_in_the_middle_of_a_line(tmp_path):
    task = examples.linear_task()
    run(task, tmp_path / "whole")
    run(task, tmp_path / "cut", epochs=3)
    path = tmp_path / "cut" / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text + text + '{"epoch": 3, "st')
    run(task, tmp_path / "cut")
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_resume_from_a_step_from_the_best_and_not_at_all(tmp_path):
    task = examples.linear_task()
    whole = run(task, tmp_path)
    with ody.Store(
        tmp_path / "checkpoints", keep_last=2, keep_best=1, monitor="valid/loss"
    ) as store:
        steps, best = store.steps(), store.best()
    assert len(steps) >= 2
    assert_same(run(task, tmp_path, resume=steps[0]).carry, whole.carry)
    assert_same(run(task, tmp_path, resume="best").carry, whole.carry)
    assert best in steps
    # A program that does not fit loses nothing.
    with ody.Store(tmp_path / "checkpoints", keep_last=None) as store:
        before = store.steps()
    with pytest.raises(CheckpointMismatchError):
        run(task, tmp_path, resume=before[0], optimizer=optax.sgd)
    with ody.Store(tmp_path / "checkpoints", keep_last=None) as store:
        assert store.steps() == before
    failing = ody.chain(
        ody.early_stopping("valid/loss", 500, restore_best=True),
        ody.checkpoint(every_epochs=3, keep_last=2, keep_best=1, monitor="valid/loss"),
        ody.callback(lambda event: None, broken),
    )
    for resume in (before[0], False):
        with pytest.raises(RuntimeError, match="boom"):
            run(task, tmp_path, resume=resume, callbacks=failing)
    with ody.Store(tmp_path / "checkpoints", keep_last=None) as store:
        assert store.steps() == before
    again = run(task, tmp_path, resume=False, epochs=2)
    assert again.epochs == 2
    with pytest.raises(ValueError, match=r"resume=7 is not among the checkpoints in .*: \[5, 10\]"):
        run(task, tmp_path, resume=7)
    with pytest.raises(ValueError, match="resume must be 'latest', 'best', a step or False, got"):
        run(task, tmp_path, resume="newest")


def test_more_patience_goes_on_with_a_stopped_run(tmp_path):
    task = examples.linear_task()
    short = run(task, tmp_path, epochs=200, patience=2, learning_rate=0.5)
    assert short.stop_reason is ody.StopReason.NO_IMPROVEMENT
    same = run(task, tmp_path, epochs=200, patience=2, learning_rate=0.5)
    assert (same.epochs, same.reason) == (short.epochs, "no improvement for 2 epochs")
    longer = run(task, tmp_path, epochs=200, patience=5, learning_rate=0.5)
    whole = run(task, tmp_path / "whole", epochs=200, patience=5, learning_rate=0.5)
    assert longer.epochs == whole.epochs > short.epochs
    assert_same(longer.state, whole.state)
    assert_same(dict(longer.history), dict(whole.history))


def test_the_same_stop_whatever_is_kept(tmp_path):
    """Callbacks that end no run may change without one more epoch."""
    arguments = {"epochs": 200, "learning_rate": 0.5}
    stopping = ody.early_stopping("valid/loss", 2)
    first = run(examples.linear_task(), tmp_path, callbacks=stopping, **arguments)
    other = ody.chain(stopping, ody.checkpoint(keep_last=3))
    again = run(examples.linear_task(), tmp_path, callbacks=other, **arguments)
    assert (again.epochs, again.reason) == (first.epochs, first.reason)


def stop_and_save_at_two(state, event):
    now = event.clock.epoch == 2
    stop = jnp.where(now, 77, 0).astype(jnp.int32)  # a reason of the user's own
    return state, ody.Signal.none()._replace(stop=stop, save=now)


def test_a_stop_and_a_save_where_one_was_just_saved(tmp_path):
    stopper = ody.callback(lambda event: None, stop_and_save_at_two, [ody.Point.EPOCH_BEGIN])
    for _ in range(2):
        result = run(examples.linear_task(), tmp_path, callbacks=stopper)
        assert (result.epochs, result.stop_reason) == (2, ody.StopReason.REQUESTED)


def test_checkpoints_of_something_else_are_refused(tmp_path):
    with ody.Store(tmp_path / "checkpoints") as store:
        store.save(1, {"w": np.zeros(2)}, {})
    with pytest.raises(ValueError, match="are not of `fit`: use another directory"):
        run(examples.linear_task(), tmp_path)


def test_a_longer_run_than_there_was_room_for(tmp_path):
    task = examples.linear_task()
    run(task, tmp_path, epochs=3)
    longer = run(task, tmp_path, epochs=130)
    assert longer.history["epoch"].tolist() == list(range(130))
    shorter = run(task, tmp_path, epochs=5)  # complete, and nothing is cut off
    assert len(shorter.history["epoch"]) == 130


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed: 0 then, 1 now"),
        ({"steps_per_epoch": 3}, "steps_per_epoch: 5 then, 3 now"),
        ({"accumulate_steps": 5}, "accumulate_steps: 1 then, 5 now"),
        ({"train": examples.train_data(4)}, "batch_size: 8 then, 4 now; steps_per_epoch"),
    ],
)
def test_other_batches_are_refused(finished, changed, message):
    with pytest.raises(ValueError, match=f"can't go on.*{message}"):
        run(examples.linear_task(), finished[0], **changed)


def test_a_checkpoint_of_another_model_or_optimizer_names_the_leaves(finished):
    directory, _ = finished
    wide = ody.pure_task(
        {"w": jnp.zeros((4, 3)), "c": jnp.zeros(3)},
        lambda p, b: (b["x"] @ p["w"]).mean() + p["c"].sum(),
    )
    with pytest.raises(CheckpointMismatchError, match=r"params.*'c'"):
        run(wide, directory, metrics=None)
    with pytest.raises(CheckpointMismatchError, match=r"opt_state.*trace"):
        run(examples.linear_task(), directory, optimizer=lambda lr: optax.sgd(lr, momentum=0.9))


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    from odyssey_jax.store import _format

    with monkeypatch.context() as patched:
        patched.setattr(_format, "FORMAT_VERSION", 99)
        run(examples.linear_task(), tmp_path, epochs=1)
    with pytest.raises(CheckpointVersionError, match="99"):
        run(examples.linear_task(), tmp_path)


def test_a_directory_that_is_a_file(tmp_path):
    path = tmp_path / "run"
    path.write_text("")
    with pytest.raises(ody.errors.CheckpointError, match="run"):
        run(examples.linear_task(), path)
    assert path.read_text() == ""


def test_a_first_loss_that_is_not_finite():
    task = ody.pure_task(jnp.zeros(4), lambda w, batch: jnp.log(w).sum() + batch["x"].mean())
    with pytest.raises(ValueError, match=r"loss of the first train step is not finite.*Look for"):
        ody.fit(task, optax.sgd, examples.train_data(), epochs=2, learning_rate=0.1, writers=[])


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs must be an integer of at least 1, got 0"),
        ({"learning_rate": None}, ValueError, "is a function of a learning rate: pass"),
        ({"learning_rate": (0.1, 0.2)}, ValueError, r"got \(0.1, 0.2\)\. .*optax\.partition"),
        ({"learning_rate": np.ones(2)}, ValueError, "must be a number or a schedule"),
        ({"optimizer": optax.sgd(0.1)}, ValueError, "no effect on an optimizer that is made"),
        ({"optimizer": 0.1}, TypeError, "optimizer must be an optax.GradientTransformation"),
        ({"config": {"path": object()}}, ValueError, "config must be JSON"),
        ({"resume": "best"}, ValueError, "resume='best' needs a directory"),
        ({"callbacks": ody.checkpoint()}, ValueError, r"needs a directory.*fit\(directory="),
        ({"callbacks": ody.early_stopping("loss", 1)}, ValueError, "no metric 'loss'; the"),
        ({"train": 7}, TypeError, "train must be arrays or .*; got a int: 7"),
        ({"valid": np.ones(8)}, ValueError, "valid is of arrays: say how many examples"),
        ({"task": examples.linear_loss}, TypeError, "task must be what nnx_task, .*, got function"),
        ({"average": 0.9}, TypeError, "average must be what exponential_average or .*, got float"),
        ({"loss_scale": 1024.0}, TypeError, r"what loss_scale\(\) makes, got float"),
        ({"seed": 1.5}, ValueError, "seed must be an integer, got 1.5"),
        ({"accumulate_steps": 0}, ValueError, "accumulate_steps must be an integer of .*, got 0"),
        ({"accumulate_steps": "2"}, ValueError, "accumulate_steps must be .* least 1, got '2'"),
        ({"accumulate_steps": 6}, ValueError, "=6 is more than the 5 train steps of the run"),
        ({"writers": "csv"}, TypeError, "writers must be a list of writers, got 'csv'"),
        ({"placement": 8}, TypeError, "placement must be from ody.data_parallel, .*, got 8"),
    ],
)
def test_bad_arguments_are_refused(kwargs, error, message):
    arguments = {
        "task": examples.linear_task(),
        "optimizer": optax.sgd,
        "train": examples.train_data(),
        "valid": examples.valid_data(),
    }
    arguments |= {"epochs": 1, "learning_rate": 0.1, "writers": []} | kwargs
    with pytest.raises(error, match=message):
        ody.fit(**arguments)


def test_a_batch_that_cannot_be_cut_evenly():
    with pytest.raises(ValueError, match="a batch of 4 examples can't be cut evenly"):
        ody.fit(
            examples.linear_task(), optax.sgd, examples.train_data(4), epochs=1,
            learning_rate=0.1, placement=ody.data_parallel(), writers=[],
        )  # fmt: skip


def test_saved_on_eight_devices_resumed_on_one(tmp_path):
    whole = run(examples.nnx_task(), tmp_path / "whole")
    run(examples.nnx_task(), tmp_path / "cut", epochs=4, placement=ody.data_parallel())
    resumed = run(examples.nnx_task(), tmp_path / "cut")
    assert len(jax.tree.leaves(resumed.state.params)[0].sharding.device_set) == 1
    for name, column in whole.history.items():
        np.testing.assert_allclose(resumed.history[name], column, rtol=1e-3, atol=1e-4)


def test_two_checkpoint_callbacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there may be one checkpoint callback"):
        run(
            examples.linear_task(),
            tmp_path,
            callbacks=ody.chain(ody.checkpoint(), ody.chain(ody.checkpoint(every_epochs=2))),
        )


def test_an_optimizer_that_is_made_already_and_a_schedule_of_optax(tmp_path):
    schedule = optax.cosine_decay_schedule(0.1, 40)
    made = run(
        examples.linear_task(),
        None,
        optimizer=optax.sgd(schedule),
        learning_rate=None,
        callbacks=None,
        writers=[],
    )
    given = run(
        examples.linear_task(),
        None,
        optimizer=optax.sgd,
        learning_rate=schedule,
        callbacks=None,
        writers=[],
    )
    np.testing.assert_allclose(made.history["valid/loss"], given.history["valid/loss"], rtol=1e-6)
    assert "learning_rate" in given.history
    assert "learning_rate" not in made.history


def broken(state, event):
    raise RuntimeError("boom")


class Failing:
    """A writer that fails at its second epoch, as a full disk would."""

    def open(self, run):
        self.closed = False

    def write(self, rows, steps_per_second):
        if rows[-1]["epoch"] >= 3:
            raise OSError("no space left")

    def close(self):
        self.closed = True


def test_a_writer_that_fails_loses_no_checkpoint(tmp_path):
    task, writer = examples.linear_task(), Failing()
    whole = run(task, tmp_path / "whole")
    with pytest.raises(OSError, match="no space left"):
        run(task, tmp_path / "cut", writers=[writer])
    assert writer.closed
    assert_same(run(task, tmp_path / "cut").carry, whole.carry)


def test_a_writer_that_fails_at_the_last_rows_does_not_cost_the_run(tmp_path):
    class FailsAtTheEnd(Failing):
        reads_state = False

        def write(self, rows, live):
            if rows[-1]["epoch"] == EPOCHS - 1:
                raise OSError("no space left")

    task, save = examples.linear_task(), ody.checkpoint(ody.every(epochs=100))
    with pytest.raises(OSError, match="no space left"):
        run(task, tmp_path, callbacks=save, writers=[FailsAtTheEnd()])
    again = run(task, tmp_path, callbacks=save)
    assert (again.epochs, np.isnan(again.steps_per_second)) == (EPOCHS, True)


def test_a_run_that_ends_before_its_first_epoch_has_no_metrics():
    result = run(examples.linear_task(), None, max_time=1e-9, callbacks=None, writers=[])
    assert (result.epochs, result.metrics, len(result.history["valid/loss"])) == (0, {}, 0)


def test_the_directory_may_be_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(examples.linear_task(), "", epochs=1)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_the_rate_in_force_has_all_of_its_digits():
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
    data = ody.ArrayDataset(jnp.ones(100), batch_size=1)
    rate = ody.exponential_decay(0.1, transition_steps=1, decay_rate=0.9)
    result = ody.fit(task, optax.sgd, data, epochs=4, learning_rate=rate, writers=[])
    want = 0.1 * 0.9 ** (100.0 * np.arange(1, 5) - 1)  # of the last update of each epoch
    np.testing.assert_allclose(result.history["learning_rate"], want, rtol=1e-6)
