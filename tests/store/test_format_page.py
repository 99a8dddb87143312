"""The page of the format says what is there: files, fields, its program, and tests by name."""

import ast
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax.store as store_room
from odyssey_jax.store import FORMAT_VERSION, Reader, Store
from odyssey_jax.store._format import MIGRATIONS

ROOT = Path(__file__).parents[2]
PAGE = (Path(store_room.__file__).parent / "FORMAT.md").read_text()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint with a leaf of each kind, and its values."""
    root = tmp_path_factory.mktemp("page")
    spread = jax.sharding.NamedSharding(jax.make_mesh((8,), ("x",)), jax.P("x"))
    tree = {
        "spread": jax.device_put(jnp.arange(16.0), spread),
        "w": jnp.ones((2, 3)),
        "large": np.arange(6.0).reshape(2, 3) * np.ones((2**15, 1, 1)),
        "half": np.array([1.5, 2.5], "bfloat16"),
        "keys": jax.random.split(jax.random.key(3), 2),
        "small": np.array([1, 2], "uint2"),
        "empty": np.zeros((0, 2)),
        "n": 5,
    }
    with Store(root) as store:
        store.save(4, tree, {}, constant=["w"])
        store.wait()
        values = store.values(4)
    return root / "4", values


def program():
    """The page's own."""
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names = {}
    exec(compile(text, "FORMAT.md", "exec"), names)
    return names["read_leaves"]


def test_the_program_reads_every_array_through_orbax_alone(saved):
    step, values = saved
    leaves = program()(step)
    assert set(values) - set(leaves) == {"['empty']", "['n']"}
    for path, leaf in leaves.items():
        value = jax.random.key_data(values[path]) if path == "['keys']" else values[path]
        assert (leaf.shape, leaf.tobytes()) == (value.shape, np.asarray(value).tobytes())


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"\xff{")])
def test_orbax_s_markers_are_not_summed_and_nothing_is_read_from_them(saved, tmp_path, damage):
    step, values = saved
    copy = shutil.copytree(step, tmp_path / "4")
    markers = [copy / "_CHECKPOINT_METADATA", *copy.rglob("commit_success.txt")]
    summed = json.loads((copy / "checksums.json").read_text())["crc32"]
    files = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    unsummed = {path.relative_to(copy).as_posix() for path in markers}
    assert files == set(summed) | unsummed | {"checksums.json"}
    assert len(markers) == 2
    for path in markers:
        damage(path)
    before, after = program()(step), program()(copy)
    assert {path: leaf.tobytes() for path, leaf in after.items()} == {
        path: leaf.tobytes() for path, leaf in before.items()
    }
    assert Reader(tmp_path).verify(4) == Reader(step.parent).verify(4)
    assert set(Reader(tmp_path).values(4)) == set(values)


def test_every_file_and_field_is_on_the_page(saved):
    step, _ = saved
    for path in step.rglob("*"):
        name = re.sub(r"^(packed|tree)\..*", r"\1.", path.name)
        assert name in PAGE, path
    for item in ("metadata", "layout"):
        data = json.loads((step / item / "metadata").read_text())
        assert all(f"`{field}`" in PAGE for field in data)
    layout = json.loads((step / "layout" / "metadata").read_text())
    assert {f'`"{row[3]}"`' in PAGE for row in layout["leaves"]} == {True}
    assert all(f"`{field}`" in PAGE for pack in layout["packs"].values() for field in pack)


def test_the_page_is_of_this_version():
    assert f"format version {FORMAT_VERSION}" in PAGE
    assert re.findall(r"^- (\d+): ", PAGE, flags=re.MULTILINE) == [
        str(FORMAT_VERSION),
        *map(str, sorted(MIGRATIONS, reverse=True)),
    ]


def test_every_promise_names_tests_that_are_there():
    rows = PAGE.split("## What Orbax leaves open")[1].splitlines()
    rows = [row for row in rows if row.startswith("|")][2:]
    assert len(rows) >= 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.split("|")[-2])
        assert named, row
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text())
            assert test in {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}, row
