"""Large leaves lie under their own names: Orbax shows them, and restores them where it is told."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import orbax.checkpoint.experimental.v1 as ocp1
import pytest

from odyssey_jax.store import CheckpointCorruptError, Reader, Store, Transfer
from odyssey_jax.store._layout import plan
from odyssey_jax.store._leaves import flatten
from odyssey_jax.store._place import place_all
from odyssey_jax.store._snapshot import Staging, sources, take
from tests.store.conftest import assert_same, blank, rows


@functools.cache
def tree():
    """A model of two layers, whose kernels are of 1 MiB each, and its optimizer."""
    random = np.random.default_rng(0)
    kernel = lambda: jnp.asarray(random.standard_normal((512, 512)), jnp.float32)
    params = {"layers": [{"kernel": kernel(), "bias": jnp.ones(512)} for _ in range(2)]}
    return {
        "params": params,
        "optimizer": optax.sgd(0.1, momentum=0.9).init(params),
        "half": random.standard_normal((1024, 512)).astype("bfloat16"),
        "uint2": np.ones((2**20,), "uint2"),  # of which Zarr has no name: packed, however large
        "spread": jax.device_put(jnp.arange(8.0), rows(4)),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    with Store(tmp_path_factory.mktemp("named")) as store:
        store.save(3, tree(), {})
    return Reader(store.directory)


def test_what_is_large_or_spread_lies_by_itself(saved):
    own = {leaf.name: leaf.array for leaf in saved.leaves(3) if leaf.array.startswith("tree.")}
    assert own == {
        "half": "tree.half",
        "optimizer/0/trace/layers/0/kernel": "tree.optimizer.0.trace.layers.0.kernel",
        "optimizer/0/trace/layers/1/kernel": "tree.optimizer.0.trace.layers.1.kernel",
        "params/layers/0/kernel": "tree.params.layers.0.kernel",
        "params/layers/1/kernel": "tree.params.layers.1.kernel",
        "spread": "tree.spread",
    }
    wanted = blank(tree())
    wanted["spread"] = tree()["spread"]
    assert_same(saved.restore(wanted).tree, tree())


def test_a_part_is_one_file_however_many_copies_there_are(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "fsdp"))
    array = jax.device_put(jnp.ones((64, 64)), jax.NamedSharding(mesh, jax.P("fsdp")))
    with Store(tmp_path) as store:
        store.save(1, {"w": array}, {})
    files = {path.name for path in (tmp_path / "1" / "state" / "tree.w").iterdir()}
    assert files == {".zarray", *(f"{n}.0" for n in range(4))}


def test_the_size_may_be_chosen(tmp_path):
    leaf = np.arange(6, dtype=np.float32)
    with Store(tmp_path, keep_last=None, pack_below=24) as store:
        store.save(1, {"a": leaf, "b": leaf[:5], "scalar": np.float32(2)}, {})
    reader = Reader(tmp_path)
    lies = {leaf.name: leaf.array for leaf in reader.leaves(1)}
    assert lies == {"a": "tree.a", "b": "packed.float32", "scalar": "packed.float32"}
    with Store(tmp_path, keep_last=None, pack_below=0) as store:
        store.save(2, {"a": leaf, "scalar": np.float32(2), "n": 1}, {})
    assert {x.array for x in reader.leaves(2)} == {"tree.a", "tree.scalar", ""}
    assert reader.load(2).tree["scalar"] == 2
    assert reader.verify(2) > 0
    with pytest.raises(ValueError, match="pack_below must be an integer of at least 0, got -1"):
        Store(tmp_path, pack_below=-1)


def test_orbax_shows_them_as_a_tree(saved):
    with ocp.StandardCheckpointer() as orbax:
        shown = orbax.metadata(saved.directory / "3" / "state").item_metadata.tree["tree"]
    assert shown["params"]["layers"]["1"]["kernel"].shape == (512, 512)
    assert shown["half"].dtype == "bfloat16"
    names = ocp1.metadata(saved.directory / "3").metadata["tree"]
    assert names["params"]["layers"].keys() == {"0", "1"}


KERNEL = Transfer(ignore=["^bias$"])


def one(sharding):
    """A target of one parameter alone."""
    like = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=sharding)
    return {"tree": {"params": {"layers": {"1": {"kernel": like}}}}}


@pytest.mark.parametrize("devices", [1, 8])
def test_orbax_restores_a_part_of_them_onto_other_devices(saved, devices):
    target, path = one(rows(devices)), saved.directory / "3"
    how = ocp.checkpoint_utils.construct_restore_args(target)
    with ocp.PyTreeCheckpointer() as orbax:
        args = ocp.args.PyTreeRestore(target, restore_args=how, partial_restore=True)
        found = orbax.restore(path / "state", args=args)
    options = ocp1.options.PyTreeOptions(
        loading=ocp1.options.PyTreeOptions.Loading(partial_load=True)
    )
    with ocp1.Context(pytree_options=options):
        newer = ocp1.load(path, target)
    for leaf in (*jax.tree.leaves(found), *jax.tree.leaves(newer)):
        assert leaf.sharding == rows(devices)
        np.testing.assert_array_equal(leaf, tree()["params"]["layers"][1]["kernel"])


def test_a_sharded_leaf_is_read_by_its_shards(saved, monkeypatch):
    """Of a leaf that lies whole each device is given its rows, and never more."""
    sizes, put = [], jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda x, *a: sizes.append(np.size(x)) or put(x, *a))
    target = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=rows(8))
    found = saved.restore({"kernel": target}, subtree="params/layers/0", transfer=KERNEL).tree
    np.testing.assert_array_equal(found["kernel"], tree()["params"]["layers"][0]["kernel"])
    assert found["kernel"].sharding == rows(8)
    assert max(sizes, default=0) == 512 * 512 // 8


def test_damage_names_the_leaf(saved, tmp_path):
    shutil.copytree(saved.directory, tmp_path / "copy")
    file = tmp_path / "copy/3/state/tree.params.layers.1.kernel/0.0"
    data = bytearray(file.read_bytes())
    data[70_000] ^= 4
    file.write_bytes(data)
    reader = Reader(tmp_path / "copy")
    with pytest.raises(CheckpointCorruptError, match=r"0\.0 is damaged.*leaf \['params'\]"):
        reader.load(3)
    with pytest.raises(CheckpointCorruptError, match=r"kernel/0\.0 is damaged"):
        reader.verify(3)
    assert reader.load(3, subtree="params/layers/0").tree["kernel"].shape == (512, 512)


def test_what_a_device_packs_and_keeps():
    """As on an accelerator: the small leaves in one array, the large ones each in a copy."""
    values = {"large": jnp.arange(2.0**18), "small": jnp.ones(3)}
    leaves, data, _ = flatten(values)
    described, data = sources(leaves, data, on_device=True)
    layout = plan(described)
    snapshot = take(layout, data, Staging())
    assert isinstance(snapshot.whole["tree.large"], jax.Array)
    packed, whole, spread, _ = snapshot.on_host(layout)
    assert (list(packed), list(whole), spread) == (["float32_0"], ["tree.large"], {})
    for leaf in values.values():
        leaf.delete()
    found = place_all(layout.places, leaves_like(layout), packed, whole)
    np.testing.assert_array_equal(found[0], np.arange(2.0**18))
    np.testing.assert_array_equal(found[1], np.ones(3))


def leaves_like(layout):
    return [jax.ShapeDtypeStruct(place.shape, place.dtype) for place in layout.places]


def test_of_a_bucket_only_what_is_read_is_downloaded(url):
    with Store(url) as store:
        store.save(3, tree(), {})
    here = lambda reader: {x.parent.name for x in reader._folder.path.glob("3/state/*/[0-9]*")}
    reader = Reader(url)
    reader.metadata(3)
    assert here(reader) == set()
    reader.load(subtree="params/layers/1")
    assert here(reader) == {"tree.params.layers.1.kernel", "packed.float32"}
    assert reader.verify(3) > 3 * 2**20
    assert here(reader) >= {leaf.array for leaf in reader.leaves(3) if "tree." in leaf.array}
