"""Runs are found, read without their model, and compared; what can't be read hides nothing."""

import json
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

import odyssey_jax as ody
from odyssey_jax.runs import Run

TREE = {"w": np.zeros(2)}
LOSSES = [1.5, 1.0, 1.25, 1.125]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run as `fit` leaves it, below another of which only the lines are there."""
    root = tmp_path_factory.mktemp("runs")
    lines(root / "a", '{"epoch": 0, "valid/loss": 2.0}')
    rows = [
        {"epoch": i, "step": 5 * i + 5, "valid/loss": loss, "learning_rate": 0.5}
        for i, loss in enumerate(LOSSES)
    ]
    b = root / "a" / "sub" / "b"
    lines(b, *map(json.dumps, rows))
    about = {
        "epochs": 9,
        "seconds": 1.5,
        "schedule": json.loads(ody.constant(0.5).to_json()),
        "config": {"name": "b"},
    }
    ends = [("NONE", "still running"), ("NO_IMPROVEMENT", "no improvement for 2 epochs")]
    with ody.Store(b / "checkpoints", keep_best=1, monitor="valid/loss") as store:
        for epoch, (stop_reason, reason) in zip((2, 4), ends, strict=True):
            metrics = {"valid/loss": LOSSES[epoch - 1]}
            now = {"epoch": epoch, "metrics": metrics, "stop_reason": stop_reason, "reason": reason}
            store.save(5 * epoch, TREE, about | now)
            store.wait()
    return root


def lines(directory, *rows):
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))


def test_what_a_run_is_and_why_it_ended(root):
    a, b = ody.runs.find_runs(root)
    assert [run.directory.relative_to(root).as_posix() for run in (a, b)] == ["a", "a/sub/b"]
    assert (a.epochs, a.last_epochs, a.monitor) == (1, None, None)
    assert (b.last_epochs, b.metadata["stop_reason"]) == (9, "NO_IMPROVEMENT")
    assert b.reason == "no improvement for 2 epochs"
    assert b.epochs == len(b.history["epoch"]) == len(LOSSES)
    assert b.schedule == "constant(value=0.5)"
    assert b.seconds == 1.5
    assert b.timestamp > 1.7e9
    assert b.metadata["config"] == {"name": "b"}
    assert a.troubles == b.troubles == ()
    losses = b.history["valid/loss"]
    assert b.monitor == ("valid/loss", "min")
    assert b.best() == ("valid/loss", int(losses.argmin()), losses.min())
    assert b.best(mode="max") == ("valid/loss", int(losses.argmax()), losses.max())
    assert b.best("none such", "min") is None


def test_the_history_is_the_files_and_numbers_that_json_has_not_come_back(tmp_path):
    rows = [
        {"epoch": 0, "step": 5, "train/loss": None, "x": "Infinity"},
        {"epoch": 1, "step": 10, "train/loss": 0.5, "x": "-Infinity"},
        {"epoch": 2, "step": 15, "train/loss": 0.5},
    ]
    lines(tmp_path / "run", *map(json.dumps, rows))
    (run,) = ody.runs.find_runs(tmp_path)
    assert run.history["x"].tolist()[:2] == [math.inf, -math.inf]
    assert math.isnan(run.history["x"][2])
    assert run.best() == ("train/loss", 1, 0.5)
    assert (run.epochs, run.reason, run.schedule, run.seconds) == (3, None, None, None)


def test_without_a_file_the_checkpoints_are_the_history(tmp_path):
    with ody.Store(tmp_path / "checkpoints", keep_last=None, monitor="acc", mode="max") as store:
        for epoch, value in enumerate([0.1, math.nan, 0.3, 0.2], 1):
            store.save(10 * epoch, TREE, {"epoch": epoch, "metrics": {"acc": value, "none": None}})
    (run,) = ody.runs.find_runs(tmp_path)
    assert run.history["epoch"].tolist() == [0, 1, 2, 3]
    assert run.history["step"].tolist() == [10, 20, 30, 40]
    assert set(run.history) == {"epoch", "step", "acc"}
    assert run.best() == ("acc", 2, 0.3)


def test_a_store_of_ones_own_may_hold_anything(tmp_path):
    with ody.Store(tmp_path / "checkpoints") as store:
        store.save(1, TREE, {"epoch": "third", "epochs": math.inf, "reason": 3, "seconds": None})
    (run,) = ody.runs.find_runs(tmp_path)
    assert (run.epochs, run.last_epochs, run.reason, run.seconds) == (0, None, None, None)


def test_what_cannot_be_read_is_a_trouble_and_hides_no_other(tmp_path):
    lines(tmp_path / "a", '{"epoch": 0, "loss": 1}', '{"epoch": 1, "los', '{"epoch": 2}')
    lines(tmp_path / "b", '{"loss": 1}')
    lines(tmp_path / "c", '{"epoch": 0, "loss": 2}')
    with (tmp_path / "c" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "lo')  # being written: not a trouble
    (tmp_path / "d" / "checkpoints").mkdir(parents=True)
    with ody.Store(tmp_path / "e" / "checkpoints", keep_last=None) as store:
        for step in (1, 2):
            store.save(step, TREE, {"epoch": step})
            store.wait()
    (tmp_path / "e" / "checkpoints" / "2" / "metadata" / "metadata").write_text("")
    a, b, c, d, e = ody.runs.find_runs(tmp_path)
    assert (a.epochs, c.epochs, d.epochs, e.epochs) == (1, 1, 0, 1)
    assert 'metrics.jsonl, line 2 is no row of a history: \'{"epoch": 1, "los\'' in a.troubles[0]
    assert "line 1 is no row" in b.troubles[0]
    assert c.troubles == d.troubles == ()
    assert "step 2" in e.troubles[0]


@pytest.mark.parametrize(
    "line", ['{"epoch": null}', '{"epoch": "Infinity"}', '{"epoch": 0, "a": 1' + "0" * 400 + "}"]
)
def test_a_number_that_is_none_hides_no_other_run(tmp_path, line):
    for name, text in (("a", line), ("b", '{"epoch": 0, "train/loss": 1.0}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(text + "\n")
    a, b = ody.runs.find_runs(tmp_path)
    assert (a.epochs, b.epochs) == (0, 1)
    assert "line 1 is no row of a history" in a.troubles[0]


def test_a_time_that_is_no_number_is_not_known(tmp_path):
    with ody.Store(tmp_path / "checkpoints") as store:
        store.save(1, TREE, {"seconds": float("nan")})
    (run,) = ody.runs.find_runs(tmp_path)
    assert run.seconds is None
    assert run.timestamp is not None


def test_reading_changes_nothing(root):
    def files():
        found = sorted(path for path in root.rglob("*"))
        return [(path, os.stat(path).st_mtime_ns) for path in found]

    before = files()
    ody.runs.find_runs(root)
    assert files() == before


def test_which_is_better_must_be_known(root):
    run = ody.runs.find_runs(root)[0]
    with pytest.raises(ValueError, match=r"of 'learning_rate' is better .*'min' or 'max'; got"):
        run.best("learning_rate")
    with pytest.raises(ValueError, match="'.*none' is not a directory"):
        ody.runs.find_runs(root / "none")


def test_one_picture_of_several(root, tmp_path):
    runs = ody.runs.find_runs(root)
    figure = ody.plots.plot_runs({"one": runs[1], "two": runs[0]}, path=tmp_path / "runs.png")
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
    losses, rates = figure.axes
    assert losses.get_ylabel() == "valid/loss"
    assert rates.get_ylabel() == "learning rate"
    (text,) = (legend.get_texts() for legend in figure.legends)
    best = runs[1].best()
    assert text[0].get_text() == f"one: {best.value:.4g} at epoch {best.epoch}"
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), runs[1].history["valid/loss"])
    assert losses.lines[1].get_xdata()[0] == best.epoch
    assert len(ody.plots.plot_runs(runs[:1]).axes) == 1
    with pytest.raises(ValueError, match=r"none of 2 runs has a number for 'acc'; they have \["):
        ody.plots.plot_runs(runs, "acc", mode="max")
    with pytest.raises(ValueError, match="none of 0 runs has a loss"):
        ody.plots.plot_runs([])


def test_a_directory_or_one_run_is_drawn(root):
    figure = ody.plots.plot_runs(root)
    names = [text.get_text().split(":")[0] for text in figure.legends[0].get_texts()]
    assert names == ["a", "a/sub/b"]
    assert len(ody.plots.plot_runs(str(root)).axes[0].lines) == 4
    one = ody.plots.plot_runs(ody.runs.find_runs(root)[0])
    assert len(one.axes[0].lines) == 2
    with pytest.raises(ValueError, match="none' is not a directory"):
        ody.plots.plot_runs(root / "none")
    message = r"a directory, or what ody.runs.find_runs.* got (str|int)"
    for wrong in (["runs"], {"a": 3}, 3):
        with pytest.raises(TypeError, match=message):
            ody.plots.plot_runs(wrong)


def test_rates_of_runs_that_are_decades_apart_are_logarithmic():
    def a_run(rate):
        history = {"epoch": np.arange(4), "valid/loss": np.ones(4), "learning_rate": rate}
        return Run(Path("a"), history, {})

    cosine = np.array([1.0, 0.75, 0.25, 1e-9])
    for factors, scale in [((1.0, 2.0), "linear"), ((1e-4, 1e-1), "log")]:
        runs = {str(factor): a_run(factor * cosine) for factor in factors}
        rates = ody.plots.plot_runs(runs).axes[1]
        assert rates.get_yscale() == scale
    assert rates.get_ylim()[0] > 1e-7, "the end of a cosine takes no room"
    low, high = np.log10(rates.get_ylim())
    assert len(rates.get_yticks()) <= high - low + 3, "a mark a decade, where there are many"


def test_a_picture_names_every_run_as_it_is_called(tmp_path):
    history = {"epoch": np.arange(2), "valid/loss": np.array([2.0, 1.0])}
    run = Run(tmp_path, history, {})
    names = ["_first", r"$\frac$", *map(str, range(40))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the legend leaves room for the curves
        figure = ody.plots.plot_runs(dict.fromkeys(names, run), path=tmp_path / "runs.png")
    shown = [text.get_text().split(":")[0] for text in figure.legends[0].get_texts()]
    assert shown == names
