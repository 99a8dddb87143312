"""Checkpoints of every format version that was ever released restore to the exact values."""

import shutil

import pytest

from odyssey_jax.store import FORMAT_VERSION, Store
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
