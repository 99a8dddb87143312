"""Corrupt checkpoints: named, and passed over for the newest or the best that is good."""

import errno
import io
import math
import os

import numpy as np
import pytest

from odyssey_jax.store import (
    FORMAT_VERSION,
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSkippedWarning,
    CheckpointVersionError,
    Reader,
    Store,
)
from odyssey_jax.store import _format as format_module

TREE = {"w": np.arange(3.0), "b": np.ones(2)}

pytestmark = pytest.mark.usefixtures("plain_writer")


@pytest.fixture
def directory(tmp_path):
    """Steps 0 to 3, of which 1 is the best, 3 the next, and 2 has no value."""
    with Store(tmp_path, keep_last=None) as store:
        for step, loss in enumerate([0.5, 0.1, math.nan, 0.2]):
            store.save(step, {"w": TREE["w"] + step, "b": TREE["b"]}, {"metrics": {"loss": loss}})
    return tmp_path


def damage(directory, step, file="state/packed.float64/0"):
    path = directory / str(step) / file
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


DAMAGED = "state/packed.float64/0 is damaged: its bytes do not have their checksum"


def test_the_latest_that_is_good(directory):
    damage(directory, 3)
    damage(directory, 2, "metadata/metadata")
    reader = Reader(directory)
    with pytest.warns(CheckpointSkippedWarning, match=r"step 1 is taken, and not the latest, sin"):
        restored = reader.restore(TREE)
    np.testing.assert_array_equal(restored.tree["w"], TREE["w"] + 1)
    assert restored.step == 1
    assert list(restored.skipped) == [3, 2]
    assert restored.skipped[3] == f"{DAMAGED} (in it ['b'], ['w'])"
    assert "metadata/metadata is damaged" in restored.skipped[2]
    assert reader.skipped == restored.skipped
    with pytest.warns(CheckpointSkippedWarning):
        assert reader.latest(verify=True) == 1
    assert reader.latest() == 3, "which is what is committed"


def test_the_best_that_is_good(directory):
    reader = Reader(directory, monitor="loss")
    assert (reader.best(), reader.best(verify=True)) == (1, 1)
    damage(directory, 1)
    with pytest.warns(CheckpointSkippedWarning, match="step 3 is taken, and not the best"):
        restored = reader.restore(TREE, "best")
    assert (restored.step, list(restored.skipped)) == (3, [1])
    damage(directory, 3, "metadata/metadata")
    with pytest.warns(CheckpointSkippedWarning):
        assert reader.best(verify=True) == 0
    damage(directory, 0)
    with pytest.raises(CheckpointCorruptError, match=r"as the best: .*step 1 .*; step 0 "):
        reader.restore(TREE, "best")
    assert Reader(directory, monitor="loss").best() == 1, "whose metadata is good"


@pytest.fixture
def refuse(monkeypatch):
    """Makes the system refuse to open files whose path ends so."""
    io_open = io.open

    def begin(ending, number):
        def refuse(path, *args, **kwargs):
            if str(path).endswith(ending):
                raise OSError(number, os.strerror(number), str(path))
            return io_open(path, *args, **kwargs)

        monkeypatch.setattr(io, "open", refuse)

    return begin


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("file", ["metadata/metadata", "state/packed.float64/0"])
@pytest.mark.parametrize(("which", "step"), [("latest", 3), ("best", 1)])
def test_what_the_system_refuses_is_not_passed_over(
    directory, monkeypatch, refuse, which, step, file, number
):
    """To go on from another one would give up this one, with which nothing is wrong."""
    refuse(f"{step}/{file}", number)
    reader, why = Reader(directory, monitor="loss"), f"read: {step}/{file}: {os.strerror(number)}"
    with pytest.raises(CheckpointError, match=why):
        reader.restore(TREE, which)
    with pytest.raises(CheckpointError, match=why):
        getattr(reader, which)(verify=True)
    monkeypatch.undo()
    assert reader.restore(TREE, which).step == step


def test_any_that_the_system_refuses_may_be_the_best(directory, monkeypatch, refuse):
    damage(directory, 0, "metadata/metadata")
    refuse("3/metadata/metadata", errno.EACCES)
    reader = Reader(directory, monitor="loss")
    with pytest.raises(CheckpointError, match="step 3 in .* cannot be read: .*: Permission denied"):
        reader.best()
    with Store(directory, keep_last=1, keep_best=1, monitor="loss") as store:
        store.save(9, TREE, {"metrics": {"loss": 0.3}})
        store.wait()
        assert store.steps() == (0, 1, 3, 9), "what nobody could read is not deleted"
    monkeypatch.undo()
    assert reader.best() == 1, "and the corrupt one is passed over"


def test_one_of_a_newer_format_may_be_the_best(directory, monkeypatch):
    with Store(directory, keep_last=None) as store:
        monkeypatch.setattr(format_module, "FORMAT_VERSION", FORMAT_VERSION + 1)
        store.save(4, TREE, {"metrics": {"loss": 0.05}})
        store.wait()
        monkeypatch.undo()
    with Store(directory, keep_last=1, keep_best=1, monitor="loss") as store:
        with pytest.raises(CheckpointVersionError, match="step 4 in .* has format version"):
            store.restore(TREE, "best")
        with pytest.raises(CheckpointVersionError, match="step 4 in .* has format version"):
            store.best(verify=True)
        assert store.skipped == {}
        store.save(9, TREE, {"metrics": {"loss": 0.3}})
        store.wait()
        assert store.steps() == (1, 4, 9), "and is not deleted"


def test_a_step_that_is_named_is_the_only_one(directory):
    damage(directory, 3)
    with pytest.raises(CheckpointCorruptError) as caught:
        Reader(directory).restore(TREE, 3)
    assert str(caught.value) == (
        f"checkpoint of step 3 in {str(directory)!r} cannot be read: {caught.value.reason}"
    )
    assert caught.value.reason.startswith(DAMAGED)
    with pytest.raises(CheckpointCorruptError, match="is damaged"):
        Reader(directory).verify(3)
    assert Reader(directory).verify(2) > 0


def test_without_verification_only_the_arrays_are_not_compared(directory):
    damage(directory, 3)
    restored = Reader(directory).restore(TREE, verify=False)
    assert restored.step == 3
    assert restored.tree["b"][0] != 1, "a wrong value, as was asked for"
    damage(directory, 3, "metadata/metadata")
    with pytest.raises(CheckpointCorruptError, match="metadata/metadata is damaged"):
        Reader(directory).restore(TREE, 3, verify=False)


def test_none_is_good(directory, tmp_path):
    for step in range(4):
        damage(directory, step)
    with pytest.raises(CheckpointCorruptError, match=r"latest: step 3 .*; step 2 .*; step 0 cann"):
        Reader(directory).restore(TREE)
    with pytest.raises(CheckpointCorruptError, match="latest: step 3"):
        Reader(directory).latest(verify=True)


def test_there_is_none(tmp_path):
    reader = Reader(tmp_path / "new", monitor="loss")
    assert (reader.steps(), reader.latest(verify=True), reader.best(verify=True)) == (
        (),
        None,
        None,
    )
    for which in ("latest", "best"):
        with pytest.raises(CheckpointNotFoundError, match="there is no checkpoint in"):
            reader.restore(TREE, which)
    assert not (tmp_path / "new").exists(), "a reader makes nothing"


def test_a_step_that_is_deleted_meanwhile_is_no_corrupt_one(directory, monkeypatch):
    """A store in another program commits a newer step, and deletes the one being read."""
    read = Reader._read

    def interfere(self, step, *args, **kwargs):
        monkeypatch.undo()
        with Store(directory, keep_last=1) as store:
            store.save(9, TREE, {})
        return read(self, step, *args, **kwargs)

    monkeypatch.setattr(Reader, "_read", interfere)
    restored = Reader(directory).restore(TREE)
    assert (restored.step, restored.skipped) == (9, {})


def test_a_skipped_step_is_in_no_good_ones_place_and_is_replaced(directory):
    damage(directory, 3)
    with Store(directory, keep_last=2) as store:
        with pytest.warns(CheckpointSkippedWarning):
            assert store.latest(verify=True) == 2
        store.save(2 + 10**6, TREE, {})
        store.wait()
        assert store.steps() == (2, 2 + 10**6), "the damaged one went when the run was past it"


def test_a_skipped_step_stays_until_the_run_is_past_it(directory):
    damage(directory, 3)
    damage(directory, 2)
    with Store(directory, keep_last=1) as store:
        with pytest.warns(CheckpointSkippedWarning):
            assert store.latest(verify=True) == 1
        store.save(2, TREE, {})
        store.wait()
        assert store.steps() == (2, 3), "the good one is kept, and the damaged one is ahead"
        assert store.skipped.keys() == {3}
        assert store.restore(TREE, 2).step == 2
        store.save(3, TREE, {})
        store.wait()
        assert (store.steps(), store.skipped) == ((3,), {})
        assert store.restore(TREE).step == 3
