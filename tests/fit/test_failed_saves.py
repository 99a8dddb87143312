"""Saves that fail in the background of a run: raised at the next exit, or warned of and counted."""

import time

import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.store import CheckpointWriteError, CheckpointWriteWarning
from tests import examples
from tests.examples import assert_same

EPOCHS = 8


def run(directory, *writers, policy="raise"):
    return ody.fit(
        examples.linear_task(), optax.adamw, examples.train_data(), examples.valid_data(),
        epochs=EPOCHS, learning_rate=0.01, directory=directory,
        callbacks=ody.checkpoint(every_epochs=2, on_failed_save=policy),
        writers=[ody.JsonLines(), *writers],
    )  # fmt: skip


class Counting:
    """Takes its time, so that a save has failed when the loop comes up next."""

    def __init__(self):
        self.epochs = 0

    def open(self, run):
        pass

    def write(self, rows, live):
        self.epochs += len(rows)
        time.sleep(0.3)

    def close(self):
        pass


def test_raised_at_the_next_exit_and_what_is_committed_goes_on(tmp_path, failing):
    failing.add(20)
    counting = Counting()
    with pytest.raises(CheckpointWriteError, match="step 20 was not written .*: No space left"):
        run(tmp_path / "cut", counting)
    assert counting.epochs == 6
    with ody.Store(tmp_path / "cut" / "checkpoints") as store:
        assert store.steps() == (30,)  # the run so far, when the failure was seen
    failing.clear()
    whole, resumed = run(tmp_path / "whole"), run(tmp_path / "cut")
    assert_same(whole.carry, resumed.carry)
    lines = [(tmp_path / d / "metrics.jsonl").read_bytes() for d in ("whole", "cut")]
    assert lines[0] == lines[1]


def test_the_last_save_is_not_swallowed(tmp_path, failing):
    failing.add(40)
    with pytest.raises(CheckpointWriteError, match="step 40 was not written"):
        run(tmp_path)
    with pytest.warns(CheckpointWriteWarning) as caught:
        run(tmp_path, policy="warn")
    assert [str(warning.message).count("step 40") for warning in caught] == [1, 0]


def test_on_request_the_run_goes_on_with_a_warning_for_each(tmp_path, failing):
    failing |= {10, 30}
    with pytest.warns(CheckpointWriteWarning) as caught:
        result = run(tmp_path, policy="warn")
    assert result.epochs == EPOCHS
    said = [str(warning.message) for warning in caught]
    assert len(said) == 3
    assert "step 10" in said[0]
    assert "1 failed save so far" in said[0]
    assert "step 30" in said[1]
    assert "2 failed saves so far" in said[1]
    assert "2 failed saves in all" in said[2]
    with ody.Store(tmp_path / "checkpoints") as store:
        assert store.steps() == (40,)


def test_no_other_policy(tmp_path):
    with pytest.raises(ValueError, match="on_failed_save must be 'raise' or 'warn', got 'ignore'"):
        run(tmp_path, policy="ignore")
