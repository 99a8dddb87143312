"""Pins: kept whatever else is, across processes, and never in Orbax's way."""

import numpy as np
import orbax.checkpoint as ocp
import pytest

from odyssey_jax.store import (
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    Reader,
    Store,
)

TREE = {"w": np.arange(3.0)}


def save(store, *steps):
    for step in steps:
        store.save(step, TREE, {"metrics": {"loss": 1.0 / (1 + step)}})
    store.wait()


def test_a_pin_outlives_the_store_and_an_unpinned_step_goes(tmp_path):
    with Store(tmp_path) as store:
        save(store, 0, 1)
        store.pin(1)
        store.pin(1)
        save(store, 2, 3)
        assert (store.steps(), store.pinned()) == ((1, 3), (1,))
    assert Reader(tmp_path).pinned() == (1,)
    with Store(tmp_path) as store:
        save(store, 4)
        assert store.steps() == (1, 4)
        store.unpin(1)
        store.unpin(1)
        assert store.steps() == (1, 4)
        save(store, 5)
        assert store.steps() == (5,)
    assert Reader(tmp_path).pinned() == ()


def test_another_program_pins_while_this_one_writes(tmp_path):
    with Store(tmp_path) as writer:
        save(writer, 1)
        with Store(tmp_path, keep_last=None) as other:
            other.pin(1)
        save(writer, 2)
        assert writer.steps() == (1, 2)


def test_a_step_that_is_being_saved_can_be_pinned(tmp_path):
    with Store(tmp_path) as store:
        store.save(1, TREE, {})
        store.pin(1)
        save(store, 2)
        assert store.steps() == (1, 2)


def test_a_pinned_step_is_not_forgotten(tmp_path):
    with Store(tmp_path, keep_last=None) as store:
        save(store, 1, 2)
        store.pin(2)
        with pytest.raises(
            CheckpointError, match=r"steps \[2\] in .* are pinned; unpin them first"
        ):
            store.forget([1, 2])
        assert store.steps() == (1, 2)
        store.unpin(2)
        store.forget([1, 2])
        assert store.steps() == ()


def test_what_is_not_committed_cannot_be_pinned(tmp_path):
    with Store(tmp_path) as store:
        save(store, 1)
        for change in (store.pin, store.unpin):
            with pytest.raises(CheckpointNotFoundError, match=r"no step 7 .*committed are \[1"):
                change(7)
            with pytest.raises(
                ValueError, match="step must be an integer of at least 0, .*, got -1"
            ):
                change(-1)
        assert {path.name for path in tmp_path.iterdir()} == {"1", "writer.lock"}


def test_a_mark_that_cannot_be_written_is_an_error(tmp_path):
    with Store(tmp_path) as store:
        save(store, 1)
        (tmp_path / "1.pinned").mkdir()
        with pytest.raises(CheckpointWriteError, match=r"step 1 in .* was not unpinned: Is a dir"):
            store.unpin(1)


def test_every_nth_step_is_kept_for_good(tmp_path):
    with Store(tmp_path, keep_every=10) as store:
        save(store, 5, 10, 15, 20, 25)
        assert store.steps() == (10, 20, 25)
        assert store.metadata(25)["retention"]["keep_every"] == 10
    with pytest.raises(
        ValueError,
        match="keep_every must be an integer of at least 1, or None for none, got 0",
    ):
        Store(tmp_path, keep_every=0)


def test_orbax_reads_the_directory_as_before(tmp_path):
    with Store(tmp_path, keep_last=None) as store:
        save(store, 3, 4)
        store.pin(3)
    with ocp.CheckpointManager(tmp_path) as manager:
        assert sorted(manager.all_steps()) == [3, 4]


def test_how_long_a_save_took(tmp_path):
    with Store(tmp_path) as store:
        assert store.save_seconds == 0
        store.save(1, TREE, {})
        store.wait()
        assert 0 < store.save_seconds < 60
