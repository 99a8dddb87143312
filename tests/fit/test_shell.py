"""The small parts of the host: pace, lines of JSON, the progress line."""

import io
import json

import jax.numpy as jnp
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import odyssey_jax as ody
from odyssey_jax.fit._throughput import CallLength
from odyssey_jax.writers._progress import summary

ROW = {"epoch": 3, "step": 20, "learning_rate": 1e-3, "valid/loss": 0.25}


@given(st.lists(st.floats(1e-7, 50), min_size=1, max_size=30), st.integers(1, 100))
def test_pace_tends_to_its_seconds(costs, first):
    pace = CallLength(seconds=0.5, first=first, growth=8)
    for cost in costs:
        before = pace.steps
        pace.took(before, before * cost)
        assert 1 <= pace.steps <= 8 * before
        assert pace.steps == 1 or pace.steps * cost <= 0.5 * (1 + 1e-6)
    for _ in range(30):  # at a steady speed it gets there
        pace.took(pace.steps, pace.steps * 0.001)
    assert pace.steps == pytest.approx(500, abs=1)
    pace.took(0, 1.0)
    assert pace.steps == pytest.approx(500, abs=1)


def test_pace_outlasts_what_processes_take_to_agree():
    pace, found = CallLength(seconds=0.5, growth=10**6), []
    for seconds in (0.001, 0.02, 0.02, 0.02, 9.0, 9.0, 9.0):  # their median counts
        pace.agreed(seconds)
        pace.took(1, 0.001)
        found.append(pace.steps)
    assert found == pytest.approx([500, 1050, 2000, 2000, 2000, 2000, 10_000], abs=1)


def test_json_lines_are_strict_json(tmp_path):
    writer = ody.JsonLines("x.jsonl")
    writer.open(ody.writers.RunInfo(tmp_path, 9, [ROW]))
    writer.write(
        [{"a": float("nan"), "b": float("inf"), "c": -float("inf")}], ody.writers.Live(0, 1.0)
    )
    writer.close()
    first, second = (tmp_path / "x.jsonl").read_text().splitlines()
    assert json.loads(first) == ROW
    assert json.loads(second, parse_constant=lambda x: pytest.fail(x)) == {
        "a": None,
        "b": "Infinity",
        "c": "-Infinity",
    }
    with pytest.raises(ValueError, match=r"needs a directory: pass fit\(directory=...\)"):
        ody.JsonLines().open(ody.writers.RunInfo(None, 9, []))


def test_small_and_large_numbers_keep_their_digits():
    text = summary({"epoch": 0, "a": 0.0, "b": 3e-6, "c": -2.5e7, "d": float("nan")}, 1)
    assert text == "epoch 0/0  a 0.0000  b 3.00e-06  c -2.50e+07  d nan"


def test_the_progress_line():
    text = summary(ROW, 100, 8311.7)
    assert text == "epoch  3/99  learning_rate 1.00e-03  valid/loss 0.2500  8,312 steps/s"
    for terminal in (False, True):
        out = io.StringIO()
        line = ody.ProgressLine(Console(file=out, force_terminal=terminal, width=200))
        line.open(ody.writers.RunInfo(None, 100, [ROW] if terminal else []))
        line.write([ROW, {**ROW, "epoch": 4}], ody.writers.Live(0, 10.0))
        line.close()
        assert ("epoch 5/99" if terminal else "epoch  4/99") in out.getvalue()
        assert "valid/loss 0.2500" in out.getvalue()
        assert "10 steps/s" in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_the_progress_line_shows_names_as_they_are(terminal):
    out = io.StringIO()
    line = ody.ProgressLine(Console(file=out, force_terminal=terminal, width=200))
    line.open(ody.writers.RunInfo(None, 9, []))
    line.write([{**ROW, "f1[macro]": 0.5, "end[/b]": 1.0}], ody.writers.Live(0, 10.0))
    line.close()
    assert "f1[macro] 0.5000  end[/b] 1.0000" in out.getvalue()


class Watching:
    """A writer that keeps what it is told."""

    def __init__(self, reads_state):
        self.reads_state = reads_state
        self.rows, self.samples, self.params = [], [], []

    def open(self, run):
        self.rows += run.rows

    def write(self, rows, live):
        self.rows += rows
        self.samples += live.samples
        self.params.append(live.state.params)

    def close(self):
        pass


def test_only_writers_that_read_the_state_are_told_before_the_program_takes_it_over():
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
    data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
    reads, others = Watching(True), Watching(False)
    result = ody.fit(
        task, optax.sgd(0.1), data, epochs=30, writers=[others, reads], log_every_n_steps=2,
        log_outputs=["loss"],
    )  # fmt: skip
    assert reads.rows == others.rows
    assert [row["train/loss"] for row in reads.rows] == pytest.approx(result.history["train/loss"])
    assert reads.samples == others.samples
    assert len(reads.samples) == 30
    assert set(others.params) == {None}
    assert len(reads.params) == len(others.params) > 1
    assert reads.params[-1] == result.state.params


def test_a_writer_hears_of_every_epoch_that_ended_before_the_run_failed(tmp_path):
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
    data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
    fails, others = Watching(True), Watching(False)

    def fail(rows, live):
        raise RuntimeError("no more")

    fails.write = fail
    with pytest.raises(RuntimeError, match="no more"):
        ody.fit(task, optax.sgd(0.1), data, epochs=30, writers=[others, fails])
    assert len(others.rows) >= 1
