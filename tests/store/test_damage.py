"""Every file of a checkpoint deleted, cut short and with a flipped bit: never a wrong value.

Each trial damages the newest of two checkpoints in one place. It must restore to the exact
values, or be skipped for the older one, which does. ODYSSEY_FLIPS asks for more flipped bits
in each file than the three of the suite, at random places.
"""

import functools
import os
import random
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odyssey_jax.store import (
    CheckpointCorruptError,
    CheckpointSkippedWarning,
    Reader,
    Store,
    _stored_step,
)
from tests.store.conftest import assert_same, blank, rows

FLIPS = int(os.environ.get("ODYSSEY_FLIPS", "3"))
METADATA = {"epoch": 3, "metrics": {"loss": 0.25}, "words": "a b"}


@functools.cache
def tree(step):
    """Leaves in both forms: packed with others, and by themselves, over devices."""
    random = np.random.default_rng(step)
    return {
        "float32": jnp.asarray(random.standard_normal((3, 5)), jnp.float32),
        "bfloat16": jnp.asarray(random.standard_normal(7), jnp.bfloat16),
        "key": jax.random.key(step),
        "python": [step, 2.5, "words", None],
        "zeros": jnp.zeros(4),
        "sharded": jax.device_put(jnp.asarray(random.integers(0, 9, (8, 2)), jnp.int16), rows(4)),
    }


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("store")
    with Store(directory, keep_last=None) as store:
        for step in (1, 2):
            store.save(step, tree(step), METADATA)
    return directory


@functools.cache
def target(step):
    """Like the tree, but over other devices than it was saved on."""
    like = tree(step)
    sharded = jax.ShapeDtypeStruct((8, 2), jnp.int16, sharding=rows(2))
    return blank(like) | {"sharded": sharded}, like | {
        "sharded": jax.device_put(like["sharded"], rows(2))
    }


def outcome(directory):
    """What becomes of the newest: "exact" or "skipped"; anything else fails."""
    reader = Reader(directory)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        restored = reader.restore(target(1)[0])
    assert_same(restored.tree, target(restored.step)[1])
    assert {name: restored.metadata[name] for name in METADATA} == METADATA
    assert restored.metadata["step"] == restored.step
    if restored.step == 2:
        assert (restored.skipped, told) == ({}, [])
        return "exact"
    assert list(restored.skipped) == [2]
    assert [warning.category for warning in told] == [CheckpointSkippedWarning]
    with pytest.raises(CheckpointCorruptError):
        reader.verify(2)
    return "skipped"


def files(directory):
    return sorted(path for path in (directory / "2").rglob("*") if path.is_file())


def folders(directory):
    return sorted(path for path in (directory / "2").rglob("*") if path.is_dir())


def cuts(data):
    """The file with its end cut off."""
    return {length: data[:length] for length in (0, len(data) // 2, len(data) - 1)}.values()


def flips(data, seed):
    """The file with one flipped bit: in the first, the middle and the last byte, and anywhere."""
    chance = random.Random(seed)
    places = [0, len(data) // 2, len(data) - 1]
    places += [chance.randrange(len(data)) for _ in range(FLIPS - len(places))]
    for place in places[:FLIPS]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        yield bytes(flipped)


def test_undamaged(directory):
    assert outcome(directory) == "exact"
    names = {path.name.split(".")[0] for path in folders(directory)}
    assert {"metadata", "layout", "state", "packed", "tree"} <= names


def test_every_file_and_directory_deleted(directory):
    for path in [*files(directory), *folders(directory)]:
        aside = directory / "aside"
        path.rename(aside)
        found = outcome(directory)
        aside.rename(path)
        markers = path.name in ("_CHECKPOINT_METADATA", "commit_success.txt")
        assert found == "skipped" or markers, path


def test_every_file_cut_short(directory):
    trials = 0
    for path in files(directory):
        data = path.read_bytes()
        for damaged in cuts(data):
            path.write_bytes(damaged)
            outcome(directory)
            trials += 1
        path.write_bytes(data)
    assert outcome(directory) == "exact"
    assert trials >= 3 * 15


def test_every_file_with_a_flipped_bit(directory):
    found = {"exact": 0, "skipped": 0}
    for path in files(directory):
        data = path.read_bytes()
        for damaged in flips(data, path.name):
            path.write_bytes(damaged)
            found[outcome(directory)] += 1
        path.write_bytes(data)
    assert outcome(directory) == "exact"
    assert sum(found.values()) == FLIPS * len(files(directory))
    print(f"\n{found['skipped']} flipped bits noticed, {found['exact']} without effect")


def test_without_verification_what_cannot_be_read_is_corrupt(directory):
    (path,) = (directory / "2" / "state").glob("tree.sharded/0.0")
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(CheckpointCorruptError, match="step 2 in .* read: state/tree.* bytes long"):
        Reader(directory).load(2, verify=False)
    path.write_bytes(data)


def test_a_damaged_chunk_of_an_array_by_itself_names_its_leaf(directory):
    path = directory / "2" / "state" / "tree.sharded" / "1.0"
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(
        CheckpointCorruptError,
        match=r"state/tree.sharded/1.0 is damaged.* \(it is of leaf \['sharded'\]\)",
    ):
        Reader(directory).restore(target(1)[0], 2)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["float32", "sharded"])
def test_a_sharding_that_a_leaf_cannot_have_is_no_damage(directory, name):
    like = dict(target(1)[0])
    like[name] = jax.ShapeDtypeStruct(like[name].shape, like[name].dtype, sharding=rows(5))
    reader = Reader(directory)
    with pytest.raises(ValueError, match=rf"leaf \['{name}'\] .* cannot be spread as its tar"):
        reader.restore(like)
    assert reader.skipped == {}


def test_a_device_without_memory_is_no_damage(directory, monkeypatch):
    def fail(*_, verify):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(_stored_step, "read_loose", fail)
    reader = Reader(directory)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE") as caught:
        reader.restore(target(1)[0])
    assert caught.value.__notes__ == [f"while checkpoint of step 2 in {str(directory)!r} was read"]
    monkeypatch.undo()
    assert reader.restore(target(1)[0]).step == 2
    assert reader.skipped == {}
