"""Saved on one device and restored on eight and two, sharded, and the other way round."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax.store import Store

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from odyssey_jax.store import Store

def mesh(n):
    return jax.sharding.Mesh(np.array(jax.devices()[:n]), "x")

def shaped(n):
    rows, everywhere = NamedSharding(mesh(n), P("x")), NamedSharding(mesh(n), P())
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 8))
    return {
        "rows": jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=rows),
        "everywhere": jax.ShapeDtypeStruct((3,), jnp.int32, sharding=everywhere),
        "keys": jax.ShapeDtypeStruct((8,), keys.dtype, sharding=rows),
        "host": jax.ShapeDtypeStruct((2,), jnp.bfloat16),
    }

def check(tree, target):
    for name, leaf in tree.items():
        if target[name].sharding is not None:
            assert leaf.sharding == target[name].sharding, (name, leaf.sharding)
    np.testing.assert_array_equal(tree["rows"], np.arange(48.0).reshape(8, 6))
    np.testing.assert_array_equal(tree["everywhere"], np.arange(3))
    return tree

assert len(jax.devices()) == 8
one, many = map(Store, sys.argv[1:])
update = jax.jit(lambda t: jax.tree.map(lambda x: x * 0, t), donate_argnums=0)
for n in (8, 2):
    target = shaped(n)
    tree = check(one.restore(target).tree, target)   # saved on one
    keys = tree.pop("keys")
    many.save(n, tree | {"keys": keys}, {})           # saved on n
    update(tree)                                      # and donated at once
    assert tree["rows"].is_deleted()
    many.wait()
    for m in (8, 4, 2):
        target = shaped(m)
        check(many.restore(target).tree, target)      # restored on m
many.close()
"""


def test_between_one_device_and_many(tmp_path):
    tree = {
        "rows": jnp.arange(48.0).reshape(8, 6),
        "everywhere": jnp.arange(3),
        "keys": jax.random.split(jax.random.key(0), 8),
        "host": jnp.ones(2, jnp.bfloat16),
    }
    with Store(tmp_path / "one") as store:
        store.save(0, tree, {})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "one"), str(tmp_path / "many")],
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with Store(tmp_path / "many") as store:
        restored = store.restore(tree).tree
    for name, leaf in restored.items():
        assert leaf.sharding == tree[name].sharding
        if name == "keys":
            np.testing.assert_array_equal(*map(jax.random.key_data, (leaf, tree[name])))
        else:
            np.testing.assert_array_equal(leaf, tree[name])
