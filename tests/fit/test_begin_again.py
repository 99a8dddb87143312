"""A run that begins again, or further back: what there was stays until it has saved something."""

import errno

import jax.numpy as jnp
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.store import CheckpointError, CheckpointWriteError, Store, _orbax
from odyssey_jax.train import Resident
from tests.examples import assert_same

TASK = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
DATA = ody.ArrayDataset(jnp.linspace(0.0, 1.0, 8), batch_size=4, shuffle=True)
OPTIMIZER = optax.adam(0.1)


def run(directory, epochs=4, seed=0, keep_last=None, **kwargs):
    return ody.fit(
        TASK, OPTIMIZER, DATA, epochs=epochs, seed=seed, directory=directory, writers=[],
        callbacks=ody.checkpoint(every_epochs=1, keep_last=keep_last), **kwargs,
    )  # fmt: skip


def steps(directory):
    return ody.store.Reader(directory / "checkpoints").steps()


def fail(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), epochs=6)


@pytest.mark.parametrize("resume", [False, 4])
def test_what_saves_nothing_costs_nothing(tmp_path, whole, resume):
    run(tmp_path)
    result = run(tmp_path, resume=resume, max_time=1e-9)
    assert result.stop_reason is ody.StopReason.TIME_BUDGET
    assert steps(tmp_path) == (2, 4, 6, 8)
    assert_same(run(tmp_path, epochs=6).carry, whole.carry)
    assert steps(tmp_path) == (2, 4, 6, 8, 10, 12)


@pytest.mark.parametrize(("resume", "keep_last"), [(False, None), (False, 1), (4, None)])
def test_a_first_save_that_fails_costs_nothing(tmp_path, whole, monkeypatch, resume, keep_last):
    run(tmp_path, keep_last=keep_last)
    before = steps(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(_orbax.Writer, "write", fail)
        with pytest.raises(CheckpointWriteError, match="was not written"):
            # The only one of its own is of the step that the other has kept.
            run(tmp_path, resume=resume, keep_last=keep_last)
    assert steps(tmp_path) == before
    assert_same(run(tmp_path, epochs=6).carry, whole.carry)


def test_killed_when_the_first_is_committed_it_is_the_new_run(tmp_path, monkeypatch):
    run(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "_delete_old", fail)
        with pytest.raises(CheckpointWriteError, match="were not deleted"):
            run(tmp_path, epochs=1, seed=1, resume=False)
    assert steps(tmp_path) == (2, 4, 6, 8)
    resumed = run(tmp_path, epochs=3, seed=1)
    assert steps(tmp_path) == (2, 4, 6)
    assert_same(resumed.carry, run(tmp_path / "whole", epochs=3, seed=1).carry)


@pytest.mark.parametrize("resume", [False, 4])
def test_what_is_pinned_is_refused_before_anything_is_compiled(tmp_path, monkeypatch, resume):
    run(tmp_path)
    with Store(tmp_path / "checkpoints", keep_last=None) as store:
        store.pin(6)
    monkeypatch.setattr(Resident, "init", fail)
    with pytest.raises(CheckpointError, match=r"steps \[6\] .* are pinned; unpin them first"):
        run(tmp_path, resume=resume)
    assert steps(tmp_path) == (2, 4, 6, 8)
