"""Checkpoints of every format version that was ever released restore to the exact values."""

import shutil

import pytest

from odyssey_jax.store import FORMAT_VERSION, CheckpointCorruptError, Reader, Store, _migrations
from odyssey_jax.store._migrations import MIGRATIONS, migrate
from tests.store.fixtures.write import FIXTURES, METADATA, STEP, tree
from tests.store.test_round_trip import assert_same, blank

VERSIONS = range(1, FORMAT_VERSION + 1)


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


def test_every_older_version_has_a_migration():
    assert list(MIGRATIONS) == list(VERSIONS)[:-1]


def test_migrations_go_one_version_at_a_time(monkeypatch):
    def migration(version):
        return lambda kind, document: document | {kind: [*document.get(kind, []), version]}

    monkeypatch.setattr(_migrations, "FORMAT_VERSION", 4)
    monkeypatch.setattr(_migrations, "MIGRATIONS", {n: migration(n) for n in (1, 2, 3)})
    assert migrate("layout", {"a": 0}, 2) == {"a": 0, "layout": [2, 3]}
    assert migrate("metadata", {}, 1) == {"metadata": [1, 2, 3]}
    assert migrate("metadata", {"a": 0}, 4) == {"a": 0}


def test_a_newer_version_that_is_damaged_is_damaged(tmp_path):
    """One flipped bit makes a 3 of a 2: that is no reason to ask for another odyssey_jax."""
    shutil.copytree(FIXTURES / f"v{FORMAT_VERSION}", tmp_path / "store")
    file = tmp_path / "store" / str(STEP) / "metadata" / "metadata"
    number = f'"format_version": {FORMAT_VERSION}'
    file.write_text(file.read_text().replace(number, f'"format_version": {FORMAT_VERSION + 1}'))
    with pytest.raises(CheckpointCorruptError, match="metadata/metadata is damaged"):
        Reader(tmp_path / "store").metadata(STEP)


def test_without_its_checksums_a_newer_one_than_the_first_is_corrupt(tmp_path):
    shutil.copytree(FIXTURES / "v2", tmp_path / "store")
    (tmp_path / "store" / str(STEP) / "checksums.json").unlink()
    with pytest.raises(CheckpointCorruptError, match=r"cannot be read: checksums\.json is missing"):
        Reader(tmp_path / "store").metadata(STEP)
