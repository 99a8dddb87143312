"""What the tests of the store share: trees, comparisons, a gate, a writer without Orbax.

It imports odyssey_jax late: xdist's controller, which runs no test, loads this file too.
"""

import dataclasses
import json
import os
import secrets
import tempfile
import threading
from typing import Any, NamedTuple

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

TREE = {"w": np.arange(3.0)}


class Pair(NamedTuple):
    """A NamedTuple node."""

    left: Any
    right: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Box:
    """A dataclass node."""

    content: Any


def rows(devices):
    """A sharding of the first axis over the first devices."""
    return NamedSharding(jax.sharding.Mesh(jax.devices()[:devices], "x"), PartitionSpec("x"))


def save(store, *steps, tree=TREE):
    """Saves and waits; the loss falls with the step."""
    for step in steps:
        store.save(step, tree, {"metrics": {"loss": 1.0 / (1 + step)}})
    store.wait()


def bits(leaf):
    """All that a leaf is, in a form that `==` compares to the bit."""
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes()
    if hasattr(leaf, "dtype"):
        return str(leaf.dtype), leaf.shape, np.ascontiguousarray(leaf).tobytes()
    return type(leaf), repr(leaf)


def assert_same(tree, like):
    """The same structure and leaves: values to the bit, kinds, shardings and weak types."""
    assert jax.tree.structure(tree) == jax.tree.structure(like)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(like), strict=True
    ):
        assert bits(a) == bits(b), path
        assert isinstance(a, jax.Array) == isinstance(b, jax.Array), path
        for name in ("sharding", "committed", "weak_type"):
            assert getattr(a, name, None) == getattr(b, name, None), (path, name)


def blank(tree):
    """The tree without its values."""

    def one(leaf):
        if not isinstance(leaf, jax.Array):
            return np.zeros_like(leaf) if isinstance(leaf, np.ndarray) else leaf
        weak = getattr(leaf, "weak_type", False)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=weak)

    return jax.tree.map(one, tree)


class PlainWriter:
    """`_orbax.Writer` without Orbax and fsyncs: the same files of packed arrays, in a tenth of it.

    For tests of what the store lists, keeps and says, where the writing is not the point.
    """

    def __init__(self, directory, barriers, *, shared=True):
        self._directory = directory

    def write(self, step, header, layout, arrays):
        from odyssey_jax.store import _checksums, _files, _layout

        packed = arrays.packed
        assert (arrays.whole, arrays.spread, arrays.linked.arrays) == ({}, {}, {})
        root = self._directory / f"{step}.{_files.UNFINISHED}"
        for name, document in {"metadata": header, "layout": _layout.to_json(layout)}.items():
            (root / name).mkdir(parents=True)
            (root / name / "metadata").write_text(json.dumps(document))
        for name, array in packed.items():
            chunk = layout.packs[name].chunk
            for number, start in enumerate(range(0, layout.packs[name].size, chunk)):
                file = root / _checksums.chunk_file(name, number)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(array[start : start + chunk].tobytes())
        _checksums.write(root, _checksums.of_whole(packed, layout.packs, {}))
        os.rename(root, self._directory / str(step))

    def close(self):
        pass


@pytest.fixture
def plain_writer():
    """Saves without Orbax."""
    from odyssey_jax.store import _orbax

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_orbax, "Writer", PlainWriter)
        yield


@pytest.fixture
def gate(monkeypatch):
    """Holds every write back until it is opened."""
    from odyssey_jax.store import _orbax

    gate, write = threading.Event(), _orbax.Writer.write
    monkeypatch.setattr(_orbax.Writer, "write", lambda *args: (gate.wait(60), write(*args)))
    yield gate
    gate.set()


MEMORY = fsspec.filesystem("memory")


@pytest.fixture
def url(monkeypatch, tmp_path):
    """A bucket of its own; staging directories in a folder of the test's."""
    from odyssey_jax.store import _objects

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(_objects, "_PAUSE", 0.0)
    name = secrets.token_hex(4)
    yield f"memory://{name}/run"
    for path in [path for path in MEMORY.store if path.startswith(f"/{name}/")]:
        del MEMORY.store[path]
