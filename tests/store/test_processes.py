"""Several processes save together and restore together, and each other's checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from odyssey_jax.store import Store, export
from tests import examples
from tests.processes import run

COMMON = """
import os, sys, time, warnings
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from odyssey_jax.store import *
from odyssey_jax.store import _files

me, directory = jax.process_index(), sys.argv[1]
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, -1), ("x", "y"))
everywhere, rows, cells = (NamedSharding(mesh, P(*p)) for p in [(), ("x",), ("x", "y")])

def put(value, sharding):
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

def keys(sharding):
    return jax.random.wrap_key_data(put(np.arange(16, dtype=np.uint32).reshape(8, 2), sharding))

def make(n=0):
    return {
        "everywhere": put(np.arange(6.0, dtype=np.float32) + n, everywhere),
        "rows": put(np.arange(48.0, dtype=np.float32).reshape(8, 6) + n, rows),
        "cells": put(np.arange(64).reshape(8, 8) + n, cells),
        "large": put(np.arange(2**18, dtype=np.float32) + n, everywhere),
        "large rows": put(np.arange(2**18, dtype=np.float32).reshape(512, 512) + n, rows),
        "keys": keys(everywhere),
        "key rows": keys(rows),
        "own": jnp.full(3, n),
        "own spread": jax.device_put(jnp.arange(4) + n, NamedSharding(
            jax.sharding.Mesh(np.array(jax.local_devices()), "x"), P("x"))),
        "host": np.full(5, n),
        "number": n,
    }

def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        x, y = a[name], b[name]
        if isinstance(x, jax.Array):
            assert x.dtype == y.dtype and x.sharding.is_equivalent_to(y.sharding, x.ndim), name
            if "key" in name:
                x, y = jax.random.key_data(x), jax.random.key_data(y)
            for s, t in zip(x.addressable_shards, y.addressable_shards, strict=True):
                np.testing.assert_array_equal(s.data, t.data)
        else:
            np.testing.assert_array_equal(x, y)
"""

SAVE = (
    COMMON
    + """
try:
    Store(f"{directory}-{me}")
    raise AssertionError
except CheckpointError as error:
    assert "is not shared: process 1 does not see what process 0 writes there" in str(error)
assert not os.listdir(f"{directory}-{me}")

store = Store(directory, keep_last=2, keep_best=1, monitor="loss")
update = jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)
for step in range(1, 6):
    tree = make(step)
    store.save(step, tree, {"metrics": {"loss": float((step - 2) ** 2)}})
    update({"rows": tree["rows"], "everywhere": tree["everywhere"]})  # donated at once
    assert tree["rows"].is_deleted()
store.wait()
assert store.steps() == (2, 4, 5), store.steps()
assert (store.latest(), store.best()) == (5, 2)
assert all(store.verify(step) for step in store.steps())
restored = store.restore(make(0))
assert restored.step == 5
same(restored.tree, make(5))
same(store.restore(make(0), "best").tree, make(2))

# Corrupt to one process is corrupt to all.
read = type(store)._restore
if me == 1:
    def blind(self, target, step, **how):
        if step == 5:
            raise CheckpointCorruptError("no", "a bad cable")
        return read(self, target, step, **how)
    type(store)._restore = blind
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    restored = store.restore(make(0))
type(store)._restore = read
assert restored.step == 4 and restored.skipped == {5: "a bad cable"}, restored
assert "step 4 is taken" in str(caught[0].message)

# A mismatch is told by each as it is.
try:
    store.restore({"rows": 1})
    raise AssertionError
except CheckpointMismatchError:
    pass
store.save(5, make(5), {})  # in place of the one that was skipped
store.wait()
store.forget([2, 4])
assert store.steps() == (5,)

# A save that fails in one process fails in all, and the next one is as good as ever.
from odyssey_jax.store import _orbax
for culprit in range(jax.process_count()):
    sums = _orbax._checksums.of_spread
    def fail(*args):
        if me == culprit:
            raise OSError(28, "No space left on device")
        return sums(*args)
    _orbax._checksums.of_spread = fail
    store.save(6, make(6), {})
    try:
        store.wait()
        raise AssertionError
    except CheckpointWriteError as error:
        who = "" if me == culprit else f"process {culprit}: "
        assert str(error) == (
            f"checkpoint of step 6 was not written to {directory!r}: {who}No space left on device"
        ), error
        assert error.errno == 28
    _orbax._checksums.of_spread = sums
    store._background.join()
    assert store.steps() == (5,)
store.save(6, make(6), {})
store.close()

# What does not change is written once, the shards of each process too.
held = [name for name in make() if name not in ("cells", "number")]
with Store(f"{directory}-constant", keep_last=None) as other:
    for step in (1, 2):
        other.save(step, make(1), {}, constant=held)
        other.wait()
        same(other.restore(make(0)).tree, make(1))
links = lambda array: {
    os.stat(file.path).st_nlink for file in os.scandir(f"{directory}-constant/2/state/{array}")
}
for array in ("tree.large", "tree.large%20rows", "tree.rows", "packed.float32_constant"):
    assert links(array) == {2}, array
assert links("tree.cells") == {1}
assert sorted({*os.listdir(directory)} - {"writer.lock"}) == ["5", "6"]
"""
)

RESTORE = (
    COMMON
    + """
with Store(directory) as store:
    restored = store.restore(make(0))
    same(restored.tree, make(restored.step))
    store.save(restored.step + 1, make(restored.step + 1), {})

# Each reads its own part of another library's files.
from odyssey_jax.store import find_foreign
from pathlib import Path
for name in sys.argv[2:]:
    with find_foreign(Path(name)) as foreign:
        target = {"w": put(np.zeros((8, 6), np.float32), rows)}
        found = foreign.restore(target, None, "")[0]
        same(found, {"w": make(0)["rows"]})
"""
)


def tree(n):
    """What the processes save, as one process has it."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("x", "y"))
    rows, cells = NamedSharding(mesh, P("x")), NamedSharding(mesh, P("x", "y"))
    keys = jax.random.wrap_key_data(jnp.arange(16, dtype=jnp.uint32).reshape(8, 2))
    return {
        "everywhere": jnp.arange(6.0) + n,
        "rows": jax.device_put(jnp.arange(48.0).reshape(8, 6) + n, rows),
        "large": jnp.arange(2.0**18) + n,
        "large rows": jax.device_put(jnp.arange(2.0**18).reshape(512, 512) + n, rows),
        "cells": jax.device_put(np.arange(64).reshape(8, 8).astype(np.int32) + n, cells),
        "keys": keys,
        "key rows": keys,
        "own": jnp.full(3, n),
        "own spread": jnp.arange(4) + n,
        "host": np.full(5, n),
        "number": n,
    }


@pytest.mark.slow
def test_several_save_and_one_restores_and_the_reverse(tmp_path):
    tmp_path = tmp_path / "shared"
    run(SAVE, tmp_path)
    with Store(tmp_path) as store:
        assert store.latest(verify=True) == 6
        examples.assert_same(store.restore(tree(0)).tree, tree(6))
        one = {
            n: x if n in ("host", "number") else jax.device_put(x, jax.devices()[0])
            for n, x in tree(0).items()
        }
        examples.assert_same(store.restore(one).tree, tree(6))
        store.save(7, tree(7), {})
        lies = {leaf.name: leaf.array for leaf in store.leaves(6)}
    assert (lies["large"], lies["rows"]) == ("tree.large", "tree.rows")
    arrays = {"w": np.arange(48.0, dtype=np.float32).reshape(8, 6)}
    files = [
        export(arrays, tmp_path / "w", "orbax"),
        export(arrays, tmp_path / "w.safetensors", "safetensors"),
    ]
    run(RESTORE, tmp_path, *files, processes=4, devices=1)
    with Store(tmp_path) as store:
        assert store.steps() == (8,)
        examples.assert_same(store.restore(tree(0)).tree, tree(8))
