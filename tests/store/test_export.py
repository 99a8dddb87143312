"""A tree written for other tools, and read by them alone."""

import errno
import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors
import safetensors.flax
import safetensors.numpy

from odyssey_jax.store import CheckpointError, CheckpointWriteError, export

TREE = {
    "layers": [{"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"bias": np.ones(3)}],
    "scale": np.array(2.5, ml_dtypes.bfloat16),
    "mask": np.array([True, False]),
    "transposed": np.arange(6).reshape(2, 3).T,
}
DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "bfloat16", "float32", "float64", "complex64", "float8_e4m3fn", "float8_e5m2",
    "float8_e8m0fnu",
]  # fmt: skip


def test_orbax_alone_reads_an_export(tmp_path):
    path = export(TREE, tmp_path / "new" / "params")
    with ocp.StandardCheckpointer() as reader:
        found = reader.restore(path)
        target = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), found)
        cast = reader.restore(path, target)  # Orbax casts, to the target's dtype
    assert jax.tree.structure(found) == jax.tree.structure(TREE)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(TREE), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert isinstance(cast["layers"][1]["bias"], jax.Array)
    with ocp.PyTreeCheckpointer() as reader:
        np.testing.assert_array_equal(reader.restore(path)["mask"], TREE["mask"])


def test_safetensors_alone_reads_an_export(tmp_path):
    path = export(TREE, tmp_path / "x.safetensors", "safetensors", {"step": "3"})
    found = safetensors.numpy.load_file(path)
    assert sorted(found) == ["layers.0.kernel", "layers.1.bias", "mask", "scale", "transposed"]
    np.testing.assert_array_equal(found["layers.0.kernel"], TREE["layers"][0]["kernel"])
    np.testing.assert_array_equal(found["transposed"], TREE["transposed"])
    assert (found["scale"].dtype, found["scale"].shape) == (ml_dtypes.bfloat16, ())
    assert float(safetensors.flax.load_file(path)["scale"]) == 2.5
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"step": "3"}


def test_every_dtype_of_safetensors_to_the_bit(tmp_path):
    arrays = {name: np.arange(5).astype(name) for name in DTYPES}
    arrays["empty"] = np.zeros((0, 3))
    path = export(arrays, tmp_path / "x", "safetensors")
    found = dict(safetensors.deserialize(path.read_bytes()))
    size = int.from_bytes(path.read_bytes()[:8], "little")
    assert size % 8 == 0
    named = json.loads(path.read_bytes()[8 : 8 + size])
    for name, array in arrays.items():
        assert bytes(found[name]["data"]) == array.tobytes(), name
        assert found[name]["shape"] == list(array.shape)
        # What safetensors itself writes for such an array says the same.
        own = safetensors.numpy.save({"x": array})
        header = json.loads(own[8 : 8 + int.from_bytes(own[:8], "little")])
        assert named[name]["dtype"] == header["x"]["dtype"]


@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">f8", ">i8", ">u2", ">c8", ">f2", "bfloat16"])
@pytest.mark.parametrize("format", ["orbax", "safetensors"])
def test_the_order_of_the_bytes_is_that_of_the_file(tmp_path, format, dtype):
    array = np.array([1, 2, 3], dtype)
    path = export({"a": array}, tmp_path / "x", format)
    if format == "orbax":
        with ocp.StandardCheckpointer() as reader:
            found = reader.restore(path)["a"]
    else:
        size = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        found = np.frombuffer(path.read_bytes(), array.dtype.newbyteorder("<"), 3, size)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_small_floats_lie_as_the_layout_says(tmp_path, dtype):
    array = jnp.asarray(np.array([0.5, 1.0, 4.0, 2.0**-6]).astype(dtype))
    data = export({"a": array}, tmp_path / "x", "safetensors").read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    start, end = json.loads(data[8:size])["a"]["data_offsets"]
    assert (start, end) == (0, array.nbytes) == (0, len(data) - size)
    np.testing.assert_array_equal(np.frombuffer(data[size:], np.dtype(dtype)), array)


REFUSED = {
    "one name": ("both", {"a.b": np.ones(1), "a": {"b": np.ones(1)}}, r"one name, 'a.b': .*'a'"),
    "nothing": ("both", {"a": None, "b": {}}, "nothing to export"),
    "string": ("both", {"a": "words"}, "leaf 'a' is a str"),
    "int4": ("safetensors", {"a": np.ones(2, ml_dtypes.int4)}, "'a' of dtype int4 has no place"),
    "number": ("safetensors", {"a": 3}, "leaf 'a' is a int, and a safetensors file holds arrays"),
    "key": ("safetensors", {"a": jax.random.key(0)}, "leaf 'a' is a .*Array"),
    "its own": ("safetensors", {"__metadata__": np.ones(1)}, "'__metadata__'"),
    "empty": ("orbax", {"a": np.ones(0)}, "leaf 'a' is empty, which Orbax cannot hold"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path, case):
    formats, tree, message = REFUSED[case]
    for format in ("orbax", "safetensors") if formats == "both" else (formats,):
        with pytest.raises(ValueError, match=message):
            export(tree, tmp_path / "x", format)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_not_replaced(tmp_path):
    (tmp_path / "x").write_text("words")
    for format in ("orbax", "safetensors"):
        with pytest.raises(CheckpointError, match="is there already"):
            export(TREE, tmp_path / "x", format)
    assert (tmp_path / "x").read_text() == "words"
    with pytest.raises(ValueError, match="format must be 'orbax' or 'safetensors', got 'pt'"):
        export(TREE, tmp_path / "y", "pt")


def test_a_failed_export_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(CheckpointWriteError, match=r"x' was not written: No space left") as caught:
        export(TREE, tmp_path / "x", "safetensors")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["orbax", "safetensors"])
def test_arrays_of_jax_are_exported_too_wherever_they_lie(tmp_path, format):
    spread = jax.sharding.NamedSharding(
        jax.sharding.Mesh(jax.devices(), "x"), jax.sharding.PartitionSpec("x")
    )
    tree = {
        "spread": jax.device_put(jnp.arange(16.0).reshape(8, 2), spread),
        "whole": jnp.arange(3, dtype=jnp.bfloat16),
    }
    path = export(tree, tmp_path / "x", format)
    if format == "orbax":
        with ocp.StandardCheckpointer() as reader:
            found = reader.restore(path)
    else:
        found = safetensors.numpy.load_file(path)
    for name, array in tree.items():
        assert isinstance(found[name], np.ndarray), "which needs no device of this machine"
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
