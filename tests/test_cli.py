"""The main job: it learns, resumes, refuses what does not fit, and fails in one line."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from importlib.metadata import version
from pathlib import Path

import pytest

import odyssey_jax as ody
from odyssey_jax._digits import Options, train_digits
from odyssey_jax.cli import _train, main
from odyssey_jax.store import Reader

ROOT = Path(__file__).parents[1]
NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # the suite's, which needs a disk too
COMMANDS = ["train", "schedule", "runs", "checkpoints"]
COMMANDS += [f"checkpoints DIR {name}" for name in ("verify", "show", "diff", "export", "prune")]


def train(directory, *arguments):
    return main(["train", "--directory", str(directory), *arguments])


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """One whole run with the defaults."""
    directory = tmp_path_factory.mktemp("runs") / "digits"
    assert train(directory) == 0
    return directory


def test_it_learns_and_leaves_what_it_says(learned, capsys):
    assert train(learned) == 0
    out = capsys.readouterr().out
    accuracy = float(out.split("test accuracy")[1].split()[0])
    assert accuracy >= 0.97
    assert "complete already: no improvement for 15 epochs; --fresh begins again" in out
    assert "precision" in out
    lines = [json.loads(x) for x in (learned / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "valid/loss", "valid/accuracy", "learning_rate"} <= set(lines[0])
    for name in ("curves.png", "confusion.png"):
        assert (learned / name).read_bytes().startswith(b"\x89PNG")
    (run,) = ody.runs.find_runs(learned)  # reads what `fit` leaves
    assert run.reason == "no improvement for 15 epochs"
    assert run.epochs == len(lines) < run.last_epochs == 100
    assert "cosine_decay(" in run.schedule
    assert run.best("valid/loss").epoch == run.epochs - 16
    assert (run.monitor, run.metadata["config"]["batch_size"]) == (("valid/loss", "min"), 32)


def test_other_options_are_refused_and_say_what_differs(learned, capsys):
    before = (learned / "metrics.jsonl").read_bytes()
    assert train(learned, "--seed", "1", "--hidden", "32", "32") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--hidden [128, 64] then, [32, 32] now; --seed 0 then, 1 now" in error
    assert "--fresh" in error
    assert (learned / "metrics.jsonl").read_bytes() == before


def test_a_damaged_newest_checkpoint_is_passed_over(learned, tmp_path, job):
    shutil.copytree(learned, tmp_path / "digits")
    checkpoints = tmp_path / "digits/checkpoints"
    newest = checkpoints / str(max(map(int, os.listdir(checkpoints))))
    (newest / "metadata/metadata").write_bytes(b"damaged")
    assert len(os.listdir(checkpoints)) > 1
    assert train(tmp_path / "digits", "--seed", "1") == 1
    assert train(tmp_path / "digits") == 0


@pytest.fixture
def job(monkeypatch):
    """Takes the job's place: what it was asked for, and how it ends."""
    asked, ends = [], {"status": 0}

    def train_digits(*arguments):
        asked.append(arguments)
        if isinstance(ends["status"], BaseException):
            raise ends["status"]
        return ends["status"]

    monkeypatch.setattr(_train, "train_digits", train_digits)
    return asked, ends


def test_options_reach_the_job(tmp_path, job):
    asked, ends = job
    assert train(tmp_path) == 0
    ends["status"] = 124
    options = ("--hidden", "8", "4", "--save-every", "1", "--fresh", "--max-time", "2")
    assert train(tmp_path, *options) == 124
    assert asked == [
        (Options(), tmp_path, False, None),
        (Options(hidden=(8, 4), save_every=1), tmp_path, True, 2.0),
    ]


def test_an_ended_job_says_what_it_leaves(tmp_path, job, capsys):
    _, ends = job
    left = f"{tmp_path} holds the run up to its last checkpoint"
    ends["status"] = KeyboardInterrupt()
    assert train(tmp_path) == 130
    assert capsys.readouterr().err == f"odyssey-jax: interrupted; {left}\n"
    ends["status"] = SystemExit(143)  # as `fit` answers SIGTERM
    with pytest.raises(SystemExit) as done:
        train(tmp_path)
    assert done.value.code == 143
    assert capsys.readouterr().err == f"odyssey-jax: ended by SIGTERM; {left}\n"


def test_fresh_options_are_not_compared(learned, job):
    asked, _ = job
    assert train(learned, "--seed", "1", "--fresh") == 0
    assert train(learned, "--epochs", "3") == 1
    assert [fresh for _, _, fresh, _ in asked] == [True]


@pytest.mark.parametrize(("fresh", "resume"), [(False, "latest"), (True, False)])
def test_time_is_up_and_nothing_is_tested(tmp_path, monkeypatch, capsys, fresh, resume):
    asked = {}

    def fit(*arguments, **options):
        asked.update(options)
        return types.SimpleNamespace(exit_code=124, reason="the time budget is spent", steps=7)

    monkeypatch.setattr(ody, "fit", fit)
    assert train_digits(Options(), tmp_path, fresh, 2.0) == 124
    assert "stopped: the time budget is spent, after 7 steps" in capsys.readouterr().out
    assert (asked["resume"], asked["max_time"], asked["directory"]) == (resume, 2.0, tmp_path)
    assert asked["config"] == dataclasses.asdict(Options())
    assert not (tmp_path / "curves.png").exists()


def test_a_signal_ends_it_with_its_own_status(tmp_path, capsys):
    checkpoints = tmp_path / "checkpoints"

    def send():
        while not list(checkpoints.glob("[0-9]*[0-9]")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=send)
    thread.start()
    long = ("--epochs", "9999", "--patience", "9999", "--save-every", "1", "--hidden", "8")
    assert train(tmp_path, *long) == 130
    thread.join()
    assert "stopped: interrupted by a signal, after " in capsys.readouterr().out
    reader = Reader(checkpoints)
    assert reader.metadata(reader.latest())["stop_reason"] == "INTERRUPTED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-time", "0"], "max_time must be seconds greater than 0 or a datetime.timedelta"),
        (["--patience", "-1"], "patience must be an integer of at least 0, got -1"),
        (["--batch-size", "9999"], "batch_size must be an integer from 1 to"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--warmup-epochs", "200"], "--warmup-epochs must be from 0 to --epochs, 100; got 200"),
        (["--hidden", "0"], "--hidden must be widths of at least 1, got [0]"),
        (["--dropout", "2"], "--dropout must be at least 0 and less than 1, got 2.0"),
    ],
)
def test_bad_options_are_one_line(tmp_path, capsys, arguments, message):
    assert train(tmp_path, *arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_directory_that_is_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert train(tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "run" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean 'train'?"),
        (["--verison"], "odyssey-jax: error: unrecognized arguments: --verison; did you mean "),
        (["runs", ".", "--metrc=a"], "usage: odyssey-jax runs "),
        (["runs", ".", "--metrc=a"], "--metrc=a; did you mean '--metric'?"),
        (["train", "--epoch", "3"], "did you mean '--epochs'?"),  # no abbreviations
        (["checkpoints", ".", "verfy"], "did you mean 'verify'?"),
        (["checkpoints", ".", "prune", "--keep-last", "1", "--ys"], "did you mean '--yes'?"),
    ],
)
def test_what_is_misspelt_is_guessed(arguments, message, capsys):
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_without_a_command_there_is_the_help(capsys):
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "run a Python program on each of several processes, with jax.distributed" in " ".join(
        shown.err.split()
    )


def test_an_error_of_the_system_has_no_number(tmp_path, capsys):
    assert main(["schedule", "cosine_decay(1.0, 9)", "--save", str(tmp_path / "no/lr.png")]) == 1
    assert capsys.readouterr().err.endswith(
        "lr.png could not be written: No such file or directory\n"
    )


def test_a_program_that_is_not_there_is_named_before_anything_starts(capsys):
    assert main(["run", "no.py"]) == 1
    assert capsys.readouterr().err.startswith("odyssey-jax: there is no program 'no.py': ")


def test_help_names_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as done:
        main(["train", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert "--warmup-epochs" in text
    assert "peak learning rate (default: 0.003)" in text


def test_the_version(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert (done.value.code, capsys.readouterr().out) == (
        0,
        f"odyssey-jax {version('odyssey-jax')}\n",
    )


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "usage: odyssey-jax" in text


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_does_not_spoil_the_run(tmp_path):
    """No file may grow past a limit: what a full disk does, for any user."""
    program = """
import resource
from odyssey_jax.cli import main
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
assert main(ARGUMENTS) == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
raise SystemExit(main(ARGUMENTS))
"""
    arguments = ["train", "--directory", str(tmp_path), "--epochs", "12", "--hidden", "16"]
    limited = subprocess.run(
        [sys.executable, "-c", f"ARGUMENTS = {arguments}{program}"],
        # One device: of several it would say that the others idle.
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", **NO_CACHE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 0, limited.stderr
    lines = [x for x in limited.stderr.splitlines() if not x.startswith("epoch")]
    assert len(lines) == 1, limited.stderr
    assert "File too large" in lines[0]
    assert "test accuracy" in limited.stdout
