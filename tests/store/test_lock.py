"""One writer at a time: another is refused before it changes anything."""

import errno
import os
import subprocess
import sys

import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.store import CheckpointInUseError, Reader, Store, _lock
from tests.store.conftest import TREE, save

pytestmark = pytest.mark.usefixtures("plain_writer")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A refusal comes at once, not after 0.5 s and ten runs of the garbage collector."""
    monkeypatch.setattr(_lock, "_PATIENCE", 0)


def test_a_second_store_reads_and_pins_and_is_refused_to_write(tmp_path):
    with Store(tmp_path, keep_last=None) as first, Store(tmp_path) as second:
        save(first, 1, 2)
        assert second.restore(TREE).step == 2
        second.pin(1)
        text = (
            f"checkpoint directory {str(tmp_path)!r} is being written to by another Store of this "
            r"program, and one at a time may: close\(\) that one, or give another directory"
        )
        for write in (lambda: second.save(3, TREE, {}), lambda: second.forget([2]), second.acquire):
            with pytest.raises(CheckpointInUseError, match=text):
                write()
        assert first.steps() == (1, 2)
        first.close()
        save(second, 3)
    assert not (tmp_path / "writer.lock").exists()


def test_who_only_reads_or_forgets_holds_nothing(tmp_path):
    with Store(tmp_path, keep_last=None) as first, Store(tmp_path) as second:
        save(first, 1, 2)
        first.close()
        second.forget([1])
        assert second.restore(TREE).step == 2
        with Store(tmp_path) as third:
            save(third, 3)


def test_a_store_that_nobody_closed_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.undo()
    store = Store(tmp_path)
    store.itself = store  # so that it goes only when garbage is collected
    save(store, 1)
    store._background.join()
    del store
    with Store(tmp_path) as again:
        save(again, 2)


def test_a_closed_store_takes_nothing(tmp_path):
    store = Store(tmp_path)
    store.close()
    with pytest.raises(RuntimeError, match="is closed; make another"):
        store.acquire()


HOLD = """
import fcntl, os, socket, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\\n".encode())
print("held", flush=True)
sys.stdin.read()
"""


def test_another_program_is_named_and_its_death_is_the_end_of_it(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "writer.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with Store(tmp_path) as store:
            with pytest.raises(CheckpointInUseError, match=f"by process {other.pid} on .*: wait"):
                store.acquire()
            other.kill()
            other.wait()
            save(store, 1)


def test_a_lock_whose_file_is_deleted_meanwhile_is_another(tmp_path, monkeypatch):
    """As when its holder closes between the opening of the file and its locking."""
    first, second = _lock.WriterLock(tmp_path), _lock.WriterLock(tmp_path)
    first.acquire()
    flock = _lock.fcntl.flock

    def late(*args):
        monkeypatch.undo()
        first.release()
        flock(*args)

    monkeypatch.setattr(_lock.fcntl, "flock", late)
    second.acquire()
    assert second.held
    with pytest.raises(CheckpointInUseError):
        first.acquire()


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSPC])
def test_where_there_are_no_locks_nobody_is_refused_or_swept_away(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_lock.fcntl, "flock", refuse)
    names = {"3.orbax-checkpoint-tmp", "2.deleted"}
    for name in names:
        (tmp_path / name).mkdir()
    with Store(tmp_path) as store:
        save(store, 4, 5)
        store._background.join()
        assert (tmp_path / "3.orbax-checkpoint-tmp").exists(), "it may be another's save"
        assert not (tmp_path / "2.deleted").exists()
        save(store, 3 + 3)


def test_a_run_beside_another_is_refused_before_it_changes_anything(tmp_path):
    task = ody.pure_task(np.zeros(3, np.float32), lambda w, batch: ((w - batch) ** 2).mean())
    data = ody.ArrayDataset(np.ones((8, 3), np.float32), batch_size=4)
    with Store(tmp_path / "checkpoints", keep_last=None) as first:
        save(first, 1, 2)
        with pytest.raises(CheckpointInUseError, match="is being written to"):
            ody.fit(task, optax.sgd(0.1), data, data, epochs=1, directory=tmp_path, resume=False)
    assert Reader(tmp_path / "checkpoints").steps() == (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_link_is_not_followed(tmp_path):
    """Whoever gave the directory away may have put one there."""
    file = tmp_path / "precious"
    file.write_text("mine")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "writer.lock").symlink_to(file)
    with Store(tmp_path / "store") as store:
        save(store, 1)
    assert file.read_text() == "mine"
    assert Reader(tmp_path / "store").steps() == (1,)
