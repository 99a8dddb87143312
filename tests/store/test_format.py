"""The documents of a step: strict JSON and back, and the format's versions."""

import json
import math
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odyssey_jax.store import (
    FORMAT_VERSION,
    CheckpointCorruptError,
    Reader,
    Store,
    _format,
    _stored_step,
)
from odyssey_jax.store._format import MIGRATIONS, decode, dumps, encode, migrate
from tests.store.conftest import assert_same, blank
from tests.store.fixtures.write import FIXTURES, METADATA, STEP, tree

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.sampled_from(["__float__", "__items__"])
values = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=12
)


@settings(max_examples=60, deadline=None)
@given(values)
def test_comes_back(value):
    assert decode(json.loads(dumps(encode(value)))) == value


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (np.float32(0.5), 0.5),
        (jnp.float32(0.5), 0.5),
        (jnp.bfloat16(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (np.array([[1.0, np.inf]]), [[1.0, math.inf]]),
        ((1, (2, 3)), [1, [2, 3]]),
        ({(1, 2): 3}, {(1, 2): 3}),
        ({"__float__": "nan"}, {"__float__": "nan"}),
        (-math.inf, -math.inf),
    ],
)
def test_table(value, back):
    result = decode(json.loads(dumps(encode(value))))
    assert result == back
    assert type(result) is type(back)


@pytest.mark.parametrize("nan", [math.nan, np.float32("nan"), jnp.float32("nan")])
def test_nan_comes_back(nan):
    assert math.isnan(decode(json.loads(dumps(encode({"loss": nan}))))["loss"])


def test_what_json_cannot_hold_is_named():
    with pytest.raises(ValueError, match=r"metadata\['a'\]\[1\] is .*object.*JSON cannot hold"):
        encode({"a": [1, object()]})


VERSIONS = [*sorted(MIGRATIONS), FORMAT_VERSION]  # those that this library reads


def test_every_version_has_a_fixture():
    found = {path.name for path in FIXTURES.iterdir() if path.is_dir()} - {"__pycache__"}
    assert found == {f"v{version}" for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
def test_restores_exactly(version, tmp_path):
    shutil.copytree(FIXTURES / f"v{version}", tmp_path / "store")
    wanted = tree()
    target = blank(wanted) | {"sharded": wanted["sharded"]}
    with Store(tmp_path / "store") as store:
        restored = store.restore(target)
    assert restored.step == STEP
    assert restored.metadata["timestamp"] == 1e9
    assert {name: restored.metadata[name] for name in METADATA} == METADATA
    assert_same(restored.tree, wanted)


def test_no_version_is_left_out():
    assert list(range(VERSIONS[0], FORMAT_VERSION + 1)) == VERSIONS


def test_a_step_of_an_older_version_is_migrated(tmp_path, monkeypatch):
    """A made-up next version, whose layout is called otherwise and whose epochs count from 0."""

    def from_3(kind, document):
        if kind == "metadata":
            return document | {"epoch": document["epoch"] - 1}
        return {{"leaves": "rows"}.get(name, name): value for name, value in document.items()}

    from_json = _stored_step.from_json
    shutil.copytree(FIXTURES / "v3", tmp_path / "store")
    with monkeypatch.context() as patched:
        patched.setattr(_format, "FORMAT_VERSION", 4)
        patched.setattr(_format, "MIGRATIONS", {3: from_3})
        patched.setattr(
            _stored_step, "from_json", lambda data: from_json(data | {"leaves": data["rows"]})
        )
        reader = Reader(tmp_path / "store")
        assert reader.metadata(STEP)["epoch"] == METADATA["epoch"] - 1
        assert reader.metadata(STEP)["format_version"] == 3
        np.testing.assert_array_equal(reader.load().tree["params"]["w"], tree()["params"]["w"])
        assert reader.verify(STEP) > 0
        patched.setattr(_format, "MIGRATIONS", {})
        with pytest.raises(CheckpointCorruptError, match=r"no format version \(found 3\)"):
            reader.metadata(STEP)


def test_migrations_go_one_version_at_a_time(monkeypatch):
    def migration(version):
        return lambda kind, document: document | {kind: [*document.get(kind, []), version]}

    monkeypatch.setattr(_format, "FORMAT_VERSION", 4)
    monkeypatch.setattr(_format, "MIGRATIONS", {n: migration(n) for n in (1, 2, 3)})
    assert migrate("layout", {"a": 0}, 2) == {"a": 0, "layout": [2, 3]}
    assert migrate("metadata", {}, 1) == {"metadata": [1, 2, 3]}
    assert migrate("metadata", {"a": 0}, 4) == {"a": 0}


def test_a_newer_version_that_is_damaged_is_damaged(tmp_path):
    """One flipped bit makes a newer one of it: that is no reason to ask for another odyssey_jax."""
    shutil.copytree(FIXTURES / f"v{FORMAT_VERSION}", tmp_path / "store")
    file = tmp_path / "store" / str(STEP) / "metadata" / "metadata"
    number = f'"format_version": {FORMAT_VERSION}'
    file.write_text(file.read_text().replace(number, f'"format_version": {FORMAT_VERSION + 1}'))
    with pytest.raises(CheckpointCorruptError, match="metadata/metadata is damaged"):
        Reader(tmp_path / "store").metadata(STEP)


def test_without_its_checksums_it_is_corrupt(tmp_path):
    shutil.copytree(FIXTURES / f"v{FORMAT_VERSION}", tmp_path / "store")
    (tmp_path / "store" / str(STEP) / "checksums.json").unlink()
    with pytest.raises(CheckpointCorruptError, match=r"cannot be read: checksums\.json is missing"):
        Reader(tmp_path / "store").metadata(STEP)
