"""The main job: it learns, resumes, refuses what does not fit, and fails in one line."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from odyssey_jax import Store
from odyssey_jax.cli import main

ROOT = Path(__file__).parents[1]


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
    assert "complete already: no improvement for 15 epochs" in out
    assert "precision" in out
    lines = [json.loads(x) for x in (learned / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "valid/loss", "valid/accuracy", "learning_rate"} <= set(lines[0])
    for name in ("curves.png", "confusion.png"):
        assert (learned / name).read_bytes().startswith(b"\x89PNG")
    assert len(list((learned / "checkpoints").iterdir())) >= 1


def test_other_options_are_refused_and_say_what_differs(learned, capsys):
    before = (learned / "metrics.jsonl").read_bytes()
    assert train(learned, "--seed", "1", "--hidden", "32", "32") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--hidden [128, 64] then, [32, 32] now; --seed 0 then, 1 now" in error
    assert "--fresh" in error
    assert (learned / "metrics.jsonl").read_bytes() == before


def test_resumes_where_it_was_and_fresh_starts_over(tmp_path, capfd):
    few = ("--hidden", "16", "--patience", "50", "--warmup-epochs", "1")
    assert train(tmp_path, "--epochs", "4", *few) == 0
    first = (tmp_path / "metrics.jsonl").read_bytes()
    assert first.count(b"\n") == 4
    assert train(tmp_path, "--epochs", "3", *few) == 1
    assert "--epochs 4 then, 3 now" in capfd.readouterr().err
    assert train(tmp_path, "--epochs", "3", "--fresh", *few) == 0
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 3


def test_time_is_up_with_its_own_status(tmp_path, capsys):
    assert train(tmp_path, "--max-time", "1e-9") == 124
    assert "stopped: the time budget is spent, after 0 steps" in capsys.readouterr().out
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("number", "status", "says"),
    [
        (signal.SIGINT, 130, "stopped: interrupted by a signal, after "),
        (signal.SIGTERM, 143, "ended by SIGTERM; "),
    ],
)
def test_signals_have_their_own_status(tmp_path, capsys, number, status, says):
    checkpoints = tmp_path / "checkpoints"

    def send():
        while not list(checkpoints.glob("[0-9]*[0-9]")):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    long = ("--epochs", "9999", "--patience", "9999", "--save-every", "1", "--hidden", "8")
    try:
        ended = train(tmp_path, *long)
    except SystemExit as error:
        ended = error.code
    thread.join()
    out, error = capsys.readouterr()
    assert ended == status
    assert says in out + error
    with Store(checkpoints) as store:
        assert store.metadata(store.latest())["stop_reason"] in ("INTERRUPTED", "NONE")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-time", "0"], "max_time must be seconds greater than 0 or a datetime.timedelta"),
        (["--patience", "-1"], "patience must be an integer of at least 0, got -1"),
        (["--batch-size", "9999"], "batch_size must be an integer from 1 to"),
        (["--epochs", "0"], "0"),
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


def test_help_names_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as done:
        main(["train", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert "--warmup-epochs" in text
    assert "peak learning rate (default: 0.003)" in text


def test_a_full_disk_is_one_line_and_keeps_the_run_so_far(tmp_path, capsys):
    """No file may grow past a limit: what a full disk does, for any user."""
    options = ["--directory", str(tmp_path), "--epochs", "12", "--hidden", "16"]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000));"
    program = f"from odyssey_jax.cli import main; raise SystemExit(main({['train', *options]}))"
    limited = subprocess.run(
        [sys.executable, "-c", limit + program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 1
    lines = [x for x in limited.stderr.splitlines() if not x.startswith("epoch")]
    assert len(lines) == 1, limited.stderr
    assert "File too large" in lines[0]
    assert main(["train", *options]) == 0
    assert "test accuracy" in capsys.readouterr().out
