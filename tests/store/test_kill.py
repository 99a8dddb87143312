"""kill -9 at the worst instants: what was committed stays, and nothing half done is listed."""

import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest

from odyssey_jax.store import Store, _files, _orbax

# A process of its own each, but forked from one that has imported JAX and Orbax.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.store.test_kill"])


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def half_deleted(path):
    os.remove(next(path.rglob(".zarray")))
    die()


def program(directory, where):
    """Commits step 1, and is killed there in the save of step 2."""
    store = Store(directory)
    store.save(1, {"w": np.full(500_000, 1.0)}, {})
    store.wait()
    if where == "before the commit":
        _orbax.sync_tree = die
    elif where == "after the commit":
        _orbax.sync = die
    elif where == "in the deletion":
        shutil.rmtree = lambda path, **_: half_deleted(path) if path.exists() else None
    store.save(2, {"w": np.full(500_000, 2.0)}, {})
    if where == "in the write":
        state = store.directory / f"2.{_files.UNFINISHED}" / "state"
        while not (state.exists() and list(state.glob("*/0"))):
            pass
        die()
    store.wait()


@pytest.mark.parametrize(
    ("where", "latest", "left"),
    [
        ("in the write", 1, True),
        ("before the commit", 1, True),
        ("after the commit", 2, False),
        ("in the deletion", 2, True),
    ],
)
def test_killed(tmp_path, where, latest, left):
    process = processes.Process(target=program, args=(tmp_path, where))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    names = {p.name for p in tmp_path.iterdir()}
    assert any("." in name for name in names - {"writer.lock"}) == left
    with Store(tmp_path) as store:
        assert store.latest() == latest
        assert all(p.name.isdigit() for p in tmp_path.iterdir()), "leftovers are cleaned"
        for step in store.steps():
            tree = store.restore({"w": np.zeros(500_000)}, step).tree
            assert (tree["w"] == step).all()
        store.save(3, {"w": np.full(500_000, 3.0)}, {})
        store.wait()
        assert store.steps() == (3,)
