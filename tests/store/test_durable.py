"""What survives a power loss: all is synced before the commit, and nothing is deleted before."""

import errno
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from odyssey_jax.store import (
    CheckpointWriteError,
    CheckpointWriteWarning,
    Reader,
    Store,
    _files,
    _orbax,
)

TREE = {"w": np.arange(3.0), "n": np.arange(2)}
MARKERS = {"commit_success.txt", "_CHECKPOINT_METADATA"}


def test_all_is_synced_before_the_commit_and_the_old_deleted_after(tmp_path, monkeypatch):
    root = tmp_path / "new" / "store"
    synced = []
    sync = _files.sync

    def record(path):
        synced.append((path, {int(p.name) for p in root.iterdir() if p.name.isdigit()}))
        return sync(path)

    for module in (_files, _orbax):
        monkeypatch.setattr(module, "sync", record)
    with Store(root) as store:
        assert [path for path, _ in synced] == [tmp_path / "new", tmp_path], "it is new itself"
        store.save(1, TREE, {})
        store.wait()
        synced.clear()
        store.save(2, TREE, {})
        store.wait()
        assert store.steps() == (2,)
    unfinished = root / "2.orbax-checkpoint-tmp"
    before = {path.relative_to(unfinished) for path, steps in synced if steps == {1}}
    after = {path for path, steps in synced if steps == {1, 2}}
    committed = {path.relative_to(root / "2") for path in (root / "2").rglob("*")}
    assert before >= committed - {Path("commit_success.txt")}, "which Orbax writes at the commit"
    assert Path() in before
    assert after == {root / "2" / name for name in MARKERS} | {
        root / "2" / "checksums.json", root / "2", root,
    }  # fmt: skip
    assert synced[-1] == (root, {2}), "the deletion"


def no_directory(monkeypatch, number):
    sync = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
@pytest.mark.parametrize("new", [True, False])
def test_a_file_system_that_cannot_sync_a_directory_saves_all_the_same(
    tmp_path, monkeypatch, number, new
):
    no_directory(monkeypatch, number)
    directory = tmp_path / "new" / "store" if new else tmp_path
    with pytest.warns(CheckpointWriteWarning, match="cannot sync a directory: a power") as told:
        store = Store(directory)
    assert [warning.filename for warning in told] == [__file__]
    with store:
        store.save(1, TREE, {})
        store.save(2, TREE, {})
        store.pin(2)
    assert Reader(directory).steps() == (2,)


def test_another_failure_to_sync_is_one(tmp_path, monkeypatch):
    with Store(tmp_path) as store:
        no_directory(monkeypatch, errno.EIO)
        store.save(1, TREE, {})
        with pytest.raises(CheckpointWriteError, match="Input/output error"):
            store.wait()
        assert store.steps() == () or store.latest(verify=True) == 1


@pytest.fixture
def protected():
    """A directory, and a function that takes away the right to write to it, from root too."""
    path = Path(tempfile.mkdtemp())
    user = os.geteuid()

    def protect():
        for folder in [path, *(p for p in path.rglob("*") if p.is_dir())]:
            folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)

    def release():
        if user == 0:
            os.seteuid(user)
        for folder in [path, *(p for p in path.rglob("*") if p.is_dir())]:
            folder.chmod(0o755)

    yield path, protect, release
    release()
    shutil.rmtree(path)


def test_a_directory_that_was_made_read_only(protected):
    path, protect, release = protected
    threads = set(threading.enumerate())
    with Store(path) as store:
        store.save(1, TREE, {})
        store.wait()
        protect()
        store.save(2, TREE, {})
        with pytest.raises(CheckpointWriteError, match="step 2 was not written .*: Permission den"):
            store.wait()
        with pytest.raises(CheckpointWriteError, match=r"\[1\] .* not deleted: Permission denied"):
            store.forget([1])
        reader = Reader(path)
        assert (reader.latest(verify=True), reader.restore(TREE).step) == (1, 1)
        release()
        store.save(3, TREE, {})
        store.wait()
        assert store.steps() == (3,)
        store._background.join()
        assert {p.name for p in path.iterdir()} == {"3", "writer.lock"}
    assert set(threading.enumerate()) <= threads, "nothing keeps the program from ending"
