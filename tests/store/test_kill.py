"""kill -9 at the worst instants: what was committed stays, and nothing half done is listed."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from odyssey_jax.store import Store

PROGRAM = """
import os, shutil, signal, sys
import numpy as np
from odyssey_jax.store import Store, _files, _orbax

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def half_deleted(path):
    os.remove(next(path.rglob(".zarray")))
    die()

store = Store(sys.argv[1])
store.save(1, {"w": np.full(500_000, 1.0)}, {})
store.wait()
where = sys.argv[2]
if where == "before the commit":
    _orbax.sync_tree = die
elif where == "after the commit":
    _orbax.sync = die
elif where == "in the deletion":
    shutil.rmtree = lambda path, **_: half_deleted(path) if path.exists() else None
store.save(2, {"w": np.full(500_000, 2.0)}, {})
if where == "in the write":
    while not list(store.directory.glob("2.*/state*/packed*/*")):
        pass
    die()
store.wait()
"""


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
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), where], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
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
