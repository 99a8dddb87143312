"""Each writer's files, read back by their own readers, after an interruption as well."""

import csv
import importlib.util
import json
import os
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import odyssey_jax as ody
from odyssey_jax.writers import Live, RunInfo
from odyssey_jax.writers._tensorboard import event_files
from tests import examples

EPOCHS, STEPS = 6, 5  # of the run, and in an epoch
HISTORY = [
    {
        "epoch": i,
        "step": STEPS * (i + 1),
        "learning_rate": 0.05,
        "train/loss": 1.1 / (i + 1),
        "valid/loss": 1.2 / (i + 1),
        "note": float("nan") if i else 0.0,
    }
    for i in range(EPOCHS)
]
STATE = ody.TrainState({"w": jnp.linspace(-1.0, 2.0, 12).reshape(4, 3), "b": jnp.zeros(3)})


def writers(directory):
    return [
        ody.JsonLines(),
        ody.CsvFile(),
        ody.TensorBoard(histograms_every=1, pictures_every=2),
        ody.MLflow(tracking_uri=(directory / "mlruns").as_uri()),
    ]


def run(directory, begun=0, epochs=EPOCHS):
    """Tell the writers of a run what `fit` tells them, from one epoch to another."""
    found = writers(directory)
    about = RunInfo(directory, EPOCHS, HISTORY[:begun], (), STEPS * begun, {"note": "a run"})
    for writer in found:
        writer.open(about)
    for row in HISTORY[begun:epochs]:
        live = Live(row["step"], 100.0, 800.0, (), {"valid/confusion": np.eye(3, dtype=int)}, STATE)
        for writer in found:
            writer.write([row], live)
    for writer in found:
        writer.close()
    return directory


@pytest.fixture(scope="module", autouse=True)
def files_for_mlflow():
    """Runs in files, which the small MLflow can keep without a database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A run that died twice in the middle of a line, the second time after epochs it then lost."""
    directory = tmp_path_factory.mktemp("cut")
    run(directory, 0, 2)
    tear(directory)
    run(directory, 2, 5)
    tear(directory)
    return run(directory, 4)


def tear(directory):
    """Leaves what a process leaves that dies while it writes."""
    with (directory / "metrics.csv").open("a") as file:
        file.write("99,1")
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 99, "st')
    (events,) = event_files(directory / "tensorboard")
    data = events.read_bytes()
    events.write_bytes(data + data[-40:-7])


def table_of(directory):
    with (directory / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", [ody.JsonLines, ody.CsvFile])
def test_the_file_of_samples_goes_with_the_samples(tmp_path, kind):
    """A run that begins anew in a directory has those of no other."""
    for samples in ([{"step": 5, "loss": 1.0}], ()):
        writer = kind()
        writer.open(RunInfo(tmp_path, EPOCHS, HISTORY[:1], samples, STEPS, {}))
        writer.close()
        assert len(list(tmp_path.glob("steps.*"))) == bool(samples)


def test_csv_is_the_history(whole, cut):
    table = table_of(whole)
    assert list(table[0]) == list(HISTORY[0])
    for name in HISTORY[0]:
        column = np.array([row[name] for row in HISTORY])
        np.testing.assert_array_equal(np.array([row[name] for row in table], column.dtype), column)
    assert (whole / "metrics.csv").read_bytes() == (cut / "metrics.csv").read_bytes()
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(EPOCHS))
    assert (whole / "metrics.jsonl").read_bytes() == (cut / "metrics.jsonl").read_bytes()


def test_what_fit_tells_arrives(tmp_path):
    result = ody.fit(
        examples.linear_task(), optax.sgd(0.05), examples.train_data(), examples.valid_data(),
        epochs=2, directory=tmp_path, metrics={"confusion": ody.ConfusionMatrix(examples.CLASSES)},
        writers=[ody.CsvFile(), ody.TensorBoard(histograms_every=1, pictures_every=2)],
    )  # fmt: skip
    table = table_of(tmp_path)
    assert list(table[0]) == list(result.history)
    for name, column in result.history.items():
        np.testing.assert_array_equal(np.array([row[name] for row in table], column.dtype), column)
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    (picture,) = reader.Images("valid/confusion")
    weights = reader.Histograms("params/w")[-1]
    assert picture.step == weights.step == reader.Scalars("valid/loss")[-1].step == result.steps
    assert weights.histogram_value.max == float(result.model["w"].max())


def test_csv_reads_what_is_not_finite(tmp_path):
    row = {"epoch": 0, "step": 5, "a": float("nan"), "b": -float("inf")}
    writer = ody.CsvFile()
    writer.open(RunInfo(tmp_path, 2, []))
    writer.write([row], Live(5, 1.0))
    writer.close()
    (read,) = table_of(tmp_path)
    assert np.isnan(float(read["a"]))
    assert float(read["b"]) == -np.inf


@pytest.mark.parametrize("which", ["whole", "cut"])
def test_tensorboard_reads_every_epoch_once(which, request):
    directory = request.getfixturevalue(which)
    reader = EventAccumulator(str(directory / "tensorboard"), size_guidance={"histograms": 0})
    reader.Reload()
    for name in set(HISTORY[0]) - {"step"}:
        scalars = reader.Scalars(name)
        assert [x.step for x in scalars] == [row["step"] for row in HISTORY]
        column = np.array([row[name] for row in HISTORY], np.float32)
        np.testing.assert_array_equal([x.value for x in scalars], column)
    assert reader.Scalars("steps_per_second")[-1].step == EPOCHS * STEPS
    assert json.loads(reader.Tensors("config/text_summary")[0].tensor_proto.string_val[0]) == {
        "note": "a run"
    }
    weights = np.asarray(STATE.params["w"])
    last = reader.Histograms("params/w")[-1]
    assert last.step == EPOCHS * STEPS
    assert last.histogram_value.num == sum(last.histogram_value.bucket) == weights.size
    assert last.histogram_value.sum == pytest.approx(weights.sum(), rel=1e-5)
    assert last.histogram_value.min == pytest.approx(weights.min())
    steps = [x.step for x in reader.Histograms("params/w")]
    assert steps == sorted(set(steps))
    assert reader.Images("valid/confusion")[-1].encoded_image_string[1:4] == b"PNG"


def test_tensorboard_keeps_what_the_history_has_not(cut):
    reader = EventAccumulator(str(cut / "tensorboard"), size_guidance={"histograms": 0})
    reader.Reload()
    assert min(x.step for x in reader.Histograms("params/w")) <= 10, "of the first process"
    assert len(event_files(cut / "tensorboard")) == 1


def test_tensorboard_has_nothing_twice_after_a_death_between_two_files(tmp_path):
    writer, row = ody.TensorBoard(), {"epoch": 0, "step": 5, "loss": 1.0}
    info = RunInfo(tmp_path, 9, [row], step=5)
    writer.open(info._replace(rows=[], step=0))
    writer.write([row], Live(5, 100.0))
    writer.close()
    (old,) = event_files(tmp_path / "tensorboard")
    data = old.read_bytes()
    for left in (data, None):  # the new file was there, and the old one not yet gone
        writer.open(info)
        writer.close()
        if left is not None:
            old.write_bytes(left)
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    for name in ("loss", "steps_per_second"):
        assert [x.step for x in reader.Scalars(name)] == [5]


def test_mlflow_says_why_a_run_could_not_be_begun(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise RuntimeError("the server is full")

    monkeypatch.setattr(MlflowClient, "create_run", refuse)
    writer = ody.MLflow(tracking_uri=(tmp_path / "mlruns").as_uri())
    with pytest.raises(RuntimeError, match="the server is full"):
        writer.open(RunInfo(tmp_path, 9, []))
    writer.close()  # as `fit` does: another error would hide that one


@pytest.mark.parametrize("which", ["whole", "cut"])
def test_mlflow_reads_every_epoch_once(which, request):
    directory = request.getfixturevalue(which)
    client = MlflowClient((directory / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("odyssey_jax")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.status, found.data.params) == ("FINISHED", {"note": "a run"})
    logged = client.get_metric_history(found.info.run_id, "valid/loss")
    assert [x.step for x in logged] == list(range(EPOCHS))
    np.testing.assert_allclose([x.value for x in logged], [row["valid/loss"] for row in HISTORY])


class FakeRun:
    """As the service does it: a step that is before the last one is refused."""

    def __init__(self):
        self.step, self.logged, self.axes, self.ends = 0, [], {}, []

    def define_metric(self, name, step_metric):
        assert name not in self.axes or self.ends, "once in a process"
        self.axes[name] = step_metric

    def log(self, values, step):
        assert step >= self.step
        self.logged.append((step, values))
        self.step = step

    def finish(self, exit_code):
        self.ends.append(exit_code)


@pytest.fixture
def fake_wandb(monkeypatch):
    """The runs by their ids, and what `wandb.init` was asked for."""
    runs, asked = {}, []

    def init(*, id, resume, config, **others):
        asked.append((resume, config, others))
        return runs.setdefault(id, FakeRun())

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, __spec__=object()))
    return runs, asked


def test_weights_and_biases_is_gone_on_with(tmp_path, fake_wandb):
    runs, asked = fake_wandb
    row = lambda epoch: {"epoch": epoch, "step": 5 * epoch + 5, "loss": 1.0}
    for begun, new in ([0, range(3)], [2, range(2, 5)]):  # the last epoch was lost, and is redone
        writer = ody.WeightsAndBiases(project="digits")
        info = RunInfo(tmp_path, 9, [row(i) for i in range(begun)], step=5 * begun)
        writer.open(info._replace(config={"width": 8}))
        writer.write([row(i) for i in new], Live(0, 100.0))
        writer.close()
    (run,) = runs.values()
    assert [step for step, _ in run.logged] == [5, 10, 15, 20, 25]
    assert run.ends == [0, 0]
    assert run.axes == {"loss": "epoch", "steps_per_second": "epoch"}
    assert run.logged[0][1]["steps_per_second"] == 100.0
    assert asked == 2 * [("allow", {"width": 8}, {"project": "digits"})]
    writer.open(RunInfo(tmp_path, 9, []))
    writer.close()
    assert len(runs) == 2, "a run that begins is a new one"
    with pytest.raises(ValueError, match=r"\['id'\] are set by the writer"):
        ody.WeightsAndBiases(id="mine")


def test_trackers_log_what_hooks_return_once(tmp_path, fake_wandb):
    runs, _ = fake_wandb
    sys.modules["wandb"].Html, sys.modules["wandb"].Image = str, np.shape
    for steps in ([5, 10], [10, 15]):  # the second run repeats a step
        found = [ody.WeightsAndBiases(), ody.MLflow(tracking_uri=(tmp_path / "mlruns").as_uri())]
        for writer in found:
            writer.open(RunInfo(tmp_path, 9, [{"epoch": 0, "step": 5, "a": 1.0}] * (steps[0] > 5),
                                step=steps[0] - 5))  # fmt: skip
            for step in steps:
                writer.write([{"epoch": step // 5 - 1, "step": step, "a": 1.0}], Live(step, 1.0))
                if step == 10:
                    writer.show(step, "n[1]", 0.5)
                    writer.show(step, "text", "<a>")
                    writer.show(step, "grey", np.zeros((4, 5, 1), np.uint8))
            writer.close()
    (run,) = runs.values()
    values = {name: x for _, logged in run.logged for name, x in logged.items()}
    assert values["n[1]"] == 0.5
    assert values["text"] == "<pre>&lt;a&gt;</pre>"
    assert values["grey"] == (4, 5)
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    ident = (tmp_path / "mlflow_run_id").read_text().split()[0]
    assert client.get_run(ident).data.metrics["n_1_"] == 0.5
    assert [x.path for x in client.list_artifacts(ident, "text")] == ["text/10.txt"]
    assert [x.path for x in client.list_artifacts(ident, "grey")] == ["grey/10.png"]


def test_trackers_are_sent_what_was_measured(tmp_path, fake_wandb):
    (runs, _), nan = fake_wandb, float("nan")
    rows = [{"epoch": i, "step": 5 * i + 5, "a": nan, "b": nan} for i in range(3)]
    writer = ody.WeightsAndBiases()
    writer.open(RunInfo(tmp_path, 9, [], is_measured=lambda name, epoch: name != "b" or epoch == 1))
    writer.write(rows, Live(0, 100.0))
    writer.close()
    (run,) = runs.values()
    assert ["a" in values for _, values in run.logged] == [True] * 3
    assert ["b" in values for _, values in run.logged] == [False, True, False]


def test_trackers_log_what_was_measured_before_the_first_step_once(tmp_path, fake_wandb):
    runs, _ = fake_wandb
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
    data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
    valid = ody.Evaluation(data, at_start=True)
    uri = (tmp_path / "mlruns").as_uri()
    for epochs in (1, 3):
        writers = [ody.WeightsAndBiases(), ody.MLflow(tracking_uri=uri)]
        result = ody.fit(
            task, optax.sgd(0.1), data, valid, epochs=epochs, writers=writers, directory=tmp_path
        )
    (run,) = runs.values()
    want = [result.metrics_at_start["valid/loss"], *result.history["valid/loss"].tolist()]
    assert [x["epoch"] for _, x in run.logged] == [-1, 0, 1, 2]
    np.testing.assert_array_equal(np.float32([x["valid/loss"] for _, x in run.logged]), want)
    assert run.logged[0][0] == 0  # at step 0
    ident = (tmp_path / "mlflow_run_id").read_text().split()[0]
    logged = MlflowClient(uri).get_metric_history(ident, "valid/loss")
    assert [x.step for x in logged] == [-1, 0, 1, 2]
    np.testing.assert_array_equal(np.float32([x.value for x in logged]), want)


def branched(tmp_path, make, torn=""):
    """Two runs in one directory, of which the second goes on from epoch 2 with another rate."""
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
    data = ody.ArrayDataset(jnp.ones(8), batch_size=4)

    def go(epochs, rate, **how):
        return ody.fit(
            task, optax.sgd, data, data, epochs=epochs, learning_rate=rate, directory=tmp_path,
            writers=[make()], callbacks=ody.checkpoint(every_epochs=1, keep_last=None),
            log_every_n_steps=1, log_outputs=["loss"], config={"width": 8}, **how,
        )  # fmt: skip

    first = go(4, 0.01)
    go(4, 0.01, resume=4)  # the same again: nothing is new
    return first, go(6, 0.1, resume=4, schedule_change="replace")


def test_weights_and_biases_does_not_mix_two_runs(tmp_path, fake_wandb):
    runs, asked = fake_wandb
    results = branched(tmp_path, ody.WeightsAndBiases)
    assert len(runs) == 2
    parent = next(iter(runs))
    assert [config.get("parent_run") for _, config, _ in asked] == [None] * 3 + [parent]
    for run, result in zip(runs.values(), results, strict=True):
        epochs = [values["valid/loss"] for _, values in run.logged if "epoch" in values]
        steps = [(x["step"], x["steps/loss"]) for _, x in run.logged if "epoch" not in x]
        np.testing.assert_array_equal(np.float32(epochs), result.history["valid/loss"])
        np.testing.assert_array_equal(np.float32([x for _, x in steps]), result.samples["loss"])
        assert [step for step, _ in steps] == list(range(1, result.steps + 1))
        assert (run.axes["valid/loss"], run.axes["steps/loss"]) == ("epoch", "step")


def test_mlflow_does_not_mix_two_runs(tmp_path):
    uri = (tmp_path / "mlruns").as_uri()
    results = branched(tmp_path, lambda: ody.MLflow(tracking_uri=uri))
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("odyssey_jax").experiment_id
    child, parent = client.search_runs([experiment], order_by=["attributes.start_time DESC"])
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params == parent.data.params == {"width": "8"}
    for run, result in zip((parent, child), results, strict=True):
        assert run.info.status == "FINISHED"
        for name, column in [("valid/loss", result.history["valid/loss"])]:
            logged = client.get_metric_history(run.info.run_id, name)
            assert [x.step for x in logged] == list(range(result.epochs))
            np.testing.assert_array_equal(np.float32([x.value for x in logged]), column)
        logged = client.get_metric_history(run.info.run_id, "steps/loss")
        assert [x.step for x in logged] == list(range(1, result.steps + 1))
        values = np.float32([x.value for x in logged])
        np.testing.assert_array_equal(values, result.samples["loss"])


@pytest.mark.parametrize("tear", [lambda text: text[:-4], lambda text: "", lambda text: text[:5]])
def test_what_a_dead_process_left_of_a_tracker_is_no_other_run(tmp_path, fake_wandb, tear):
    runs, _ = fake_wandb
    rows = [{"epoch": i, "step": 5 * i + 5, "loss": 1.0 / (i + 1)} for i in range(4)]
    writer = ody.WeightsAndBiases()
    writer.open(RunInfo(tmp_path, 9, []))
    writer.write(rows[:3], Live(15, 1.0))
    writer.close()
    file = tmp_path / "wandb_run_id"
    file.write_text(tear(file.read_text()))
    writer = ody.WeightsAndBiases()
    writer.open(RunInfo(tmp_path, 9, rows[:2], step=10))
    writer.write(rows[2:], Live(20, 1.0))
    writer.close()
    *_, last = runs.values()
    assert {step: values["loss"] for step, values in last.logged} == {
        row["step"]: row["loss"] for row in rows
    }


class Interrupts:
    """A writer that ends the run with an exception."""

    def __init__(self, error):
        self.error, self.told = error, []

    def open(self, run):
        pass

    def write(self, rows, live):
        raise self.error

    def fail(self, error):
        self.told.append(error)

    def close(self):
        self.told.append("closed")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(RuntimeError("full"), "FAILED", 1), (KeyboardInterrupt(), "KILLED", 1)],
)
def test_a_run_that_failed_is_marked_as_failed(tmp_path, fake_wandb, error, status, code):
    runs, _ = fake_wandb
    uri = (tmp_path / "mlruns").as_uri()
    ending = Interrupts(error)
    writers = [ody.WeightsAndBiases(), ody.MLflow(tracking_uri=uri), ending]
    with pytest.raises(type(error)):
        ody.fit(
            examples.linear_task(), optax.sgd(0.05), examples.train_data(), epochs=2,
            directory=tmp_path, writers=writers,
        )  # fmt: skip
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("odyssey_jax").experiment_id])
    assert run.info.status == status
    assert [run.ends for run in runs.values()] == [[code]]
    assert ending.told == [error, "closed"]


def test_mlflow_works_with_the_extra_as_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    writer = ody.MLflow()
    writer.open(RunInfo(tmp_path / "run", 9, []))
    writer.write([{"epoch": 0, "step": 5, "f1[macro]": 0.5}], Live(5, 1.0))
    writer.close()
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    if importlib.util.find_spec("sqlalchemy") is None:
        assert (tmp_path / "mlruns").is_dir()
        with pytest.raises(ImportError, match=r"in a database .* pip install mlflow, or tracking_"):
            ody.MLflow(tracking_uri="sqlite:///x.db").open(RunInfo(None, 9, []))


@pytest.mark.parametrize("argument", ["histograms_every", "pictures_every"])
def test_periods_are_checked(argument):
    for value in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"{argument} must be an integer of at least 1"):
            ody.TensorBoard(**{argument: value})


@pytest.mark.parametrize(
    ("writer", "name"),
    [
        (ody.JsonLines, "metrics.jsonl.tmp"), (ody.JsonLines, "metrics.jsonl"),
        (ody.CsvFile, "metrics.csv.tmp"), (ody.CsvFile, "steps.csv.tmp"),
        (ody.TensorBoard, "tensorboard/new.tmp"), (ody.WeightsAndBiases, "wandb_run_id"),
    ],
)  # fmt: skip
def test_links_are_not_followed(tmp_path, fake_wandb, writer, name):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    directory = tmp_path / "run"
    (directory / name).parent.mkdir(parents=True)
    (directory / name).symlink_to(victim)
    made = writer()
    made.open(RunInfo(directory, 9, []))
    row = {"epoch": 0, "step": 5, "loss": 1.0}
    made.write([row], Live(5, 1.0, samples=[{"step": 5, "loss": 1.0}]))
    made.close()
    assert victim.read_text() == "precious"
    assert not (directory / name).is_symlink()


def test_a_change_of_the_working_directory_sends_no_rows_elsewhere(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    made = [ody.JsonLines(), ody.CsvFile(), ody.TensorBoard()]
    for writer in made:
        writer.open(RunInfo(Path("run"), 9, []))
    monkeypatch.chdir(tmp_path / "two")
    for writer in made:
        row = {"epoch": 0, "step": 5, "loss": 1.0}
        writer.write([row], Live(5, 1.0, samples=[{"step": 5, "loss": 1.0}]))
        writer.close()
    assert not os.listdir(tmp_path / "two")
    assert (tmp_path / "one" / "run" / "steps.csv").read_text() == "step,loss\n5,1.0\n"


def test_epochs_and_steps_are_two_files():
    with pytest.raises(ValueError, match="name and steps must be two files, got 'a.csv' for both"):
        ody.CsvFile("a.csv", "a.csv")


@pytest.mark.parametrize("writer", [ody.CsvFile(), ody.TensorBoard(), ody.JsonLines()])
def test_files_need_a_directory(writer):
    with pytest.raises(ValueError, match=r"pass fit\(directory=...\)"):
        writer.open(RunInfo(None, 9, []))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'odyssey-jax\[tensorboard\]'$"):
        ody.TensorBoard()
