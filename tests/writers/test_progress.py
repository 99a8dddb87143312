"""The progress line: what is seen while it compiles, within an epoch, and where it is narrow."""

import io
import re

import jax.numpy as jnp
import optax
import pytest
from rich.console import Console

import odyssey_jax as ody
from odyssey_jax.writers import Live, RunInfo

INFO = RunInfo(None, 100, [], steps_per_epoch=400, monitor="valid/loss")
ROW = {"epoch": 0, "step": 400, "learning_rate": 1e-3, "train/loss": 0.5, "valid/loss": 0.25}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def line_of(width=200, info=INFO, terminal=True):
    """A line, and what it shows now."""
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width)
    return ody.ProgressLine(console, clock), clock, info


def after(line, clock, info, seconds, rate, rows=(), samples=()):
    """Have a run go on for a while, told twice a second."""
    line._run = info
    start = line._step
    for i in range(1, 2 * seconds + 1):
        clock.now += 0.5
        live = Live(round(start + rate * i / 2), 1.0, samples=samples if i == 1 else ())
        line.write(rows if i == 1 else (), live)
    return line._line()


def test_it_says_compiling_only_until_the_program_runs():
    line, _, info = line_of()
    line.open(info)
    assert "compiling" in line._line()
    line.write((), Live(0, float("nan")))
    assert "compiling" not in line._line()
    assert "epoch 0/99  step 0/400" in line._line()
    line.close()


def test_within_an_epoch_it_goes_on():
    line, clock, info = line_of()
    shown = after(line, clock, info, 5, 20, samples=[{"step": 1, "loss": 0.75}])
    assert "epoch 0/99" in shown
    assert "step 100/400" in shown
    assert "loss 0.7500" in shown
    assert "20 steps/s" in shown
    assert f"{round((40_000 - 100) / 20) // 60}:15 left" in shown


def test_the_throughput_is_that_of_the_last_seconds():
    line, clock, info = line_of()
    after(line, clock, info, 30, 100)
    assert "10 steps/s" in after(line, clock, info, 12, 10)


def test_the_time_left_counts_pauses():
    line, clock, info = line_of()
    after(line, clock, info, 1, 100)
    clock.now += 9.0  # validation, or a save
    shown = after(line, clock, info, 10, 100)
    assert "100 steps/s" in shown
    left = re.search(r"(\d+):(\d\d) left", shown)
    steps, seconds = line._marks[-1][1] - line._marks[0][1], line._marks[-1][0] - line._marks[0][0]
    expected = (40_000 - line._step) / (steps / seconds)
    assert int(left[1]) * 60 + int(left[2]) == pytest.approx(expected, abs=1)
    assert expected > 1.5 * (40_000 - line._step) / 100


@pytest.mark.parametrize("name", ["valid/loss", "valid/top5_accuracy"])
def test_at_80_columns_what_matters_is_seen(name):
    info = INFO._replace(epochs=1_000, steps_per_epoch=20_000, monitor=name)
    line, clock, info = line_of(80, info)
    rows = [ROW | {name: 0.125, "valid/another_metric": 0.5, "valid/f1[macro]\x1b[2J": 0.5}]
    shown = after(line, clock, info, 20, 12_345, rows, [{"step": 1, "loss": 0.75}])
    assert len(shown) < 80
    assert shown.startswith(("━", "┄"))
    assert f"{name} 0.1250" in shown
    assert "left" in shown
    assert "12,345 steps/s" in shown
    assert "\x1b" not in shown
    line._console.width = 300
    wide = line._line()
    order = [name, "left", "steps/s", "step ", "loss 0.7500", "learning_rate", "another_metric"]
    assert sorted(order, key=wide.find) == order
    assert r"valid/f1[macro]\x1b[2J 0.5000" in wide


def test_a_notebook_has_the_same_line_at_most_twice_a_second():
    line, clock, _ = line_of()
    shown = []

    class Cell:
        def update(self, text):
            shown.append(text.data if hasattr(text, "data") else str(text))

    line._cell = Cell()
    for _ in range(100):
        clock.now += 0.01
        line.write((), Live(1, 1.0))
    assert len(shown) <= 3


def test_fit_tells_one_that_wants_it_where_the_run_is():
    class Watches:
        reads_state = False
        wants_progress = True

        def __init__(self):
            self.seen = []

        def open(self, run):
            self.run = run

        def write(self, rows, live):
            self.seen.append((live.step, len(rows)))

        def close(self):
            pass

    class Ignores(Watches):
        wants_progress = False

    watches, ignores = Watches(), Ignores()
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
    data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
    ody.fit(
        task, optax.sgd(0.1), data, data, epochs=3, writers=[watches, ignores],
        callbacks=ody.early_stopping("train/loss", 3),
    )  # fmt: skip
    assert watches.seen[0] == (0, 0), "when it is compiled"
    assert sum(rows for _, rows in watches.seen) == sum(rows for _, rows in ignores.seen) == 3
    assert all(rows for _, rows in ignores.seen)
    assert (watches.run.steps_per_epoch, watches.run.monitor) == (2, "train/loss")


def test_waiting_for_data_is_shown_where_it_is_much():
    line, _, info = line_of()
    line.open(info)
    line.write((), Live(10, 1.0, waiting=0.04))
    assert "waiting" not in line._line()
    line.write((), Live(20, 1.0, waiting=0.25))
    assert "25% waiting for data" in line._line()
    line.close()
