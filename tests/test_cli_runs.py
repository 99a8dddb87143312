"""`odyssey-jax runs`: the table, JSON, the picture, and one line where it fails."""

import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
from rich.console import Console

import odyssey_jax as ody
from odyssey_jax.cli import _output, main

REASON = "no improvement for 3 epochs"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One run as `fit` leaves it, one of which only the lines are there."""
    root = tmp_path_factory.mktemp("runs")
    with ody.Store(root / "a[0]" / "checkpoints", keep_best=1, monitor="acc", mode="max") as store:
        about = {
            "epoch": 2,
            "epochs": 9,
            "metrics": {"acc": 0.5},
            "reason": REASON,
            "stop_reason": "NO_IMPROVEMENT",
            "seconds": 75.0,
            "schedule": json.loads(ody.constant(0.1).to_json()),
        }
        store.save(10, {"w": np.zeros(2)}, about)
    rows = ['{"epoch": 0, "acc": 0.75}', '{"epoch": 1, "acc": 0.5}']
    (root / "a[0]" / "metrics.jsonl").write_text("\n".join([*rows, ""]))
    (root / "b").mkdir()
    (root / "b" / "metrics.jsonl").write_text('{"epoch": 0, "valid/loss": null, "acc": 0.25}\n')
    return root


def test_the_table(root, capsys):
    assert main(["runs", str(root)]) == 0
    head, a, b = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "epochs", "best", "ended", "time", "saved", "learning", "rate"]
    assert a.split()[:4] == ["a[0]", "2", "of", "9"]
    for text in ("acc 0.75 at epoch 0", REASON, "1 min 15 s", "s ago", "constant(value=0.1)"):
        assert text in a
    assert b.split() == ["b", "1"]


def at_80_columns(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(_output, "Console", lambda **_: Console(width=80, force_terminal=True))
    assert main(list(arguments)) == 0
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()


def test_at_80_columns_no_name_is_cut(root, tmp_path, capsys, monkeypatch):
    name = "a-run-with-" + "a-very-" * 8 + "long-name"
    shutil.copytree(root / "a[0]", tmp_path / name)
    shutil.copytree(root / "a[0]", tmp_path / "short")
    lines = at_80_columns(monkeypatch, capsys, "runs", str(tmp_path))
    text = "\n".join(lines)
    for whole in (name, "acc 0.75 at epoch 0", "1 min 15 s", "constant(value=0.1)", "2 of 9"):
        assert whole in text
    assert text.count(f"ended: {REASON}") == 2
    assert max(map(len, lines)) <= 80
    wide = at_80_columns(monkeypatch, capsys, "runs", str(root))
    assert wide[0].split() == ["run", "epochs", "best", "ended", "time"]
    assert wide[1].split()[0] == "a[0]"
    assert "    learning rate: constant(value=0.1)" in wide


def test_the_best_run_comes_first(tmp_path, capsys):
    values = {"a": 0.5, "b": 0.25, "c": None, "d": 0.75}
    for name, value in values.items():
        (tmp_path / name).mkdir()
        row = {"epoch": 0, "valid/loss": value, "acc": value}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    for options, order in [([], "badc"), (["--metric", "acc", "--mode", "max"], "dabc")]:
        assert main(["runs", str(tmp_path), *options]) == 0
        lines = capsys.readouterr().out.splitlines()[1:]
        assert "".join(line.split()[0] for line in lines) == order
        assert main(["runs", str(tmp_path), "--json", *options]) == 0
        assert "".join(run["run"] for run in json.loads(capsys.readouterr().out)) == order


def test_what_is_broken_is_told_below(root, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("no\n")
    assert main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == [tmp_path.name, "0"]  # rather than "."
    assert out[2] == f"? {tmp_path}/metrics.jsonl, line 1 is no row of a history: 'no'"


def test_json_is_strict_and_has_it_all(root, capsys):
    assert main(["runs", str(root), "--json"]) == 0
    a, b = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert (a["run"], a["directory"]) == ("a[0]", str(root / "a[0]"))
    assert a["best"] == {"metric": "acc", "epoch": 0, "value": 0.75}
    assert (a["stop_reason"], a["reason"], a["seconds"]) == ("NO_IMPROVEMENT", REASON, 75.0)
    assert ody.Schedule.from_json(json.dumps(a["schedule"])) == ody.constant(0.1)
    assert (b["best"], b["reason"], b["troubles"]) == (None, None, [])


def test_the_picture_and_another_metric(root, tmp_path, capsys):
    picture = tmp_path / "runs.svg"
    assert main(["runs", str(root), "--metric", "acc"]) == 0
    assert "acc 0.25 at epoch 0" in capsys.readouterr().out  # b's, as a knows that more is better
    arguments = ["--metric", "acc", "--mode", "min", "--plot", str(picture)]
    assert main(["runs", str(root), *arguments]) == 0
    out = capsys.readouterr().out
    assert "acc 0.5 at epoch 1" in out
    assert "acc 0.25 at epoch 0" in out
    assert out.endswith(f"in {picture}: the picture\n")
    assert b"<svg" in picture.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none' is not a directory"),
        (["empty"], "there is no run in "),
        (["", "--metric", "g1"], "whether less or more of 'g1' is better is not known"),
        (["", "--plot", "runs.txt"], "the path of a picture must end in"),
        (["", "--metric", "f1", "--mode", "max", "--plot", "a.png"], "none of 2 runs has a number"),
    ],
)
def test_mistakes_are_one_line(root, capsys, arguments, message):
    (root / "empty").mkdir(exist_ok=True)
    assert main(["runs", str(root / arguments[0]), *arguments[1:]]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_reader_that_goes_away_is_no_error(root, capsys, monkeypatch):
    end, start = os.pipe()
    os.close(end)
    with os.fdopen(start, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert main(["runs", str(root), "--json"]) == 1
    assert capsys.readouterr().err == ""
