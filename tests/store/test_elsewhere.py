"""Saved on some devices and restored on others: more, fewer, and in meshes of another shape."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import odyssey_jax as ody
from odyssey_jax.store import Reader, Store
from tests import examples
from tests.processes import environment_of


def mesh(*shape):
    """The first devices, in a mesh whose axes are "a" and "b"."""
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    return jax.sharding.Mesh(devices, ("a", "b")[: len(shape)])


ROWS = P("a")
# How a leaf may lie: the shape of the mesh and the axes along which it is cut.
LAYOUTS = {
    "8 rows": ((8,), P("a")),
    "4 rows": ((4,), P("a")),
    "2 columns": ((2,), P(None, "a")),
    "2 by 4 blocks": ((2, 4), P("b", "a")),
    "rows, each twice": ((4, 2), P("a")),
    "8 times whole": ((8,), P()),
    "on the third": None,
    "anywhere": None,
}


def lies(name):
    """The sharding of a layout; None where nothing is said."""
    if name == "on the third":
        return SingleDeviceSharding(jax.devices()[2])
    return None if LAYOUTS[name] is None else rows(*LAYOUTS[name])


def rows(shape, axes=ROWS):
    return NamedSharding(mesh(*shape), axes)


@functools.cache
def arrays():
    """What is saved, of a typed key its words: NumPy arrays, whose placing compiles nothing."""
    return {
        "w": np.arange(128, dtype=np.float32).reshape(16, 8),
        "int4": (np.arange(128).reshape(8, 16) % 8).astype("int4"),
        "keys": np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), (8, 8)))),
    }


def laid(sharding):
    found = jax.device_put(arrays(), sharding)
    return found | {"keys": jax.random.wrap_key_data(found["keys"])}


@functools.cache
def tree():
    return laid(None)


def described(sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree())


def bits(leaf):
    words = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return np.asarray(words).tobytes()


def assert_laid(found, sharding):
    for (path, leaf), like in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(tree()), strict=True
    ):
        assert bits(leaf) == bits(like), path
        if sharding is not None:
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), path


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A step for each way to lie."""
    with Store(tmp_path_factory.mktemp("elsewhere"), keep_last=None) as store:
        for step, sharding in enumerate(map(lies, LAYOUTS)):
            store.save(step, laid(sharding), {})
        store.wait()
        yield store


@pytest.mark.parametrize("saved", LAYOUTS)
def test_restored_onto_every_other_layout(stores, saved):
    step = list(LAYOUTS).index(saved)
    for sharding in map(lies, LAYOUTS):
        assert_laid(stores.restore(described(sharding), step).tree, sharding)
    host = stores.load(step).tree
    assert isinstance(host["w"], np.ndarray)
    assert_laid(host, None)


def test_what_is_spread_may_be_donated_at_once_and_goes_on_elsewhere(stores, tmp_path):
    """Saved by one device, restored onto 8 and 2, saved from there, and donated."""
    update = jax.jit(lambda w: w * 0, donate_argnums=0)
    with Store(tmp_path, keep_last=None) as store:
        for devices in (8, 2):
            found = stores.restore(described(rows((devices,))), len(LAYOUTS) - 1).tree
            store.save(devices, found, {})
            update(found["w"])
            assert found["w"].is_deleted()
        for devices in (8, 4, 2):
            sharding = rows((devices,))
            for step in (8, 2):
                assert_laid(store.restore(described(sharding), step).tree, sharding)


def test_arrays_as_a_target_and_what_is_kept_of_it(stores):
    """A target of arrays is read onto its devices, and a leaf that is kept stays on its own."""
    sharding = lies("4 rows")
    target = laid(sharding)
    target["w"] = jax.device_put(jnp.zeros((16, 8)), sharding)
    transfer = ody.Transfer(initialize=["^w$"])
    found = stores.restore(target, 0, transfer=transfer).tree
    assert found["w"].sharding == sharding
    assert not found["w"].any()
    assert_laid(found | {"w": tree()["w"]}, None)


PROGRAM = """
import sys
import jax
from odyssey_jax.store import Reader, Store
from tests.store import test_elsewhere as t

count, source, target = int(sys.argv[1]), *sys.argv[2:]
assert len(jax.devices()) == count
reader = Reader(source)
for step in reader.steps():
    for sharding in (t.rows((count,)), t.rows((count,), t.P())):
        t.assert_laid(reader.restore(t.described(sharding), step).tree, sharding)
    t.assert_laid(reader.restore(t.described(None), step).tree, None)
    t.assert_laid(reader.load(step).tree, None)
with Store(target) as store:
    store.save(count, t.laid(t.rows((count,))), {})
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_machine_with_fewer_devices_and_back(stores, tmp_path, count):
    """There, the devices that the checkpoint was saved on do not exist."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(count), str(stores.directory), str(tmp_path)],
        env=environment_of(count),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for sharding in map(lies, LAYOUTS):
        assert_laid(Reader(tmp_path).restore(described(sharding), count).tree, sharding)


def fit(directory, epochs, devices):
    mesh = jax.sharding.Mesh(jax.devices()[:devices], ("data",))
    placement = None if devices is None else ody.data_parallel(mesh)
    return ody.fit(
        examples.linear_task(), optax.adam(1e-2), examples.train_data(), examples.valid_data(),
        epochs=epochs, placement=placement, directory=directory, writers=[],
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices(tmp_path):
    first = fit(tmp_path, 2, 8)
    host = jax.tree.map(np.asarray, first.state.params)
    for devices in (4, 2, 1, None, 8):
        found = fit(tmp_path, 2, devices).state  # complete already: restored, and no more
        examples.assert_same(jax.tree.map(np.asarray, found.params), host)
        examples.assert_same(found.opt_state, first.state.opt_state)
        assert {len(x.devices()) for x in jax.tree.leaves(found)} == {devices or 1}
    more = fit(tmp_path, 3, 2)
    assert (more.epochs, more.steps) == (3, 15)
    np.testing.assert_array_equal(more.history["valid/loss"][:2], first.history["valid/loss"])
    assert more.history["valid/loss"][2] < first.history["valid/loss"][1]
