"""A checkpoint from a stranger is data and nothing else: mangled, endless, or leading elsewhere.

Each trial changes the newest of two checkpoints, and makes its checksums right again, as its
author can. It is one documented error, bounded in memory and time, and the other step is found.
"""

import functools
import json
import os
import random
import resource
import shutil
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odyssey_jax.store import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointVersionError,
    Reader,
    Store,
    _files,
    _layout,
)
from odyssey_jax.store._leaves import name_of, split
from odyssey_jax.store._structure import numbers_in
from tests.store.conftest import rows

MARKERS = ("_CHECKPOINT_METADATA", "commit_success.txt", "checksums.json")
DOCUMENTS = ("checksums.json", "metadata/metadata", "layout/metadata", "state/tree.sharded/.zarray")


def tree(value):
    return {
        "params": {"w": np.full(3, value), "b": np.zeros(2, np.float32)},
        "items": {(0, 1): np.arange(2), (2, 3): None},
        "key": jax.random.key(3),
        "python": [1, 2.5, "words"],
        "sharded": jax.device_put(jnp.arange(8, dtype=jnp.int16).reshape(4, 2), rows(2)),
        "empty": np.zeros((0, 4)),
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    with Store(directory, keep_last=None, monitor="loss") as store:
        for step in (1, 2):
            store.save(step, tree(float(step)), {"metrics": {"loss": 1.0 / step}, "epoch": step})
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "store")
    return tmp_path / "store"


def resum(step):
    """Makes the checksums right again."""
    sums = {
        path.relative_to(step).as_posix(): [path.stat().st_size, zlib.crc32(path.read_bytes())]
        for path in step.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name not in MARKERS
    }
    (step / "checksums.json").write_text(json.dumps({"crc32": sums}))


def change(directory, document, act):
    """Changes a document of step 2, and makes its checksum right again."""
    path = directory / "2" / document
    content = json.loads(path.read_text())
    changed = act(content)
    path.write_text(json.dumps(content if changed is None else changed))
    if document != "checksums.json":
        resum(directory / "2")


def reads(directory):
    """Every call that reads, by name."""
    reader = Reader(directory, monitor="loss")
    return {
        "steps": reader.steps,
        "load": lambda: reader.load(2),
        "load unverified": lambda: reader.load(2, verify=False),
        "values": lambda: reader.values(2),
        "leaves": lambda: [(leaf.name, str(leaf)) for leaf in reader.leaves(2)],
        "metadata": lambda: reader.metadata(2),
        "verify": lambda: reader.verify(2),
        "size": lambda: reader.size(2),
        "restore": lambda: reader.restore(tree(0.0), 2),
        "subtree": lambda: reader.load(2, subtree="params"),
        "best": lambda: reader.best(verify=True),
        "latest": lambda: reader.latest(verify=True),
        "newest": reader.load,
    }


def outcomes(directory):
    """What each call comes to; nothing but the documented errors comes out of one."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, read in reads(directory).items():
            try:
                read()
                found[name] = None
            except CheckpointError as error:
                found[name] = error
        Store(directory, keep_last=None).close()
    return found


def check(directory, message):
    """One error that says so, in every call that needs the document; the other step is found."""
    found = outcomes(directory)
    for name in ("steps", "size", "best", "latest", "newest"):
        assert found[name] is None, name
    assert isinstance(found["load"], CheckpointCorruptError)
    assert message in str(found["load"])
    assert isinstance(found["values"], CheckpointCorruptError)
    reader = Reader(directory, monitor="loss")
    with pytest.warns(UserWarning, match="step 1 is taken"):
        assert reader.load().step == 1
    assert reader.steps() == (1, 2)


def test_undamaged(directory):
    assert set(outcomes(directory).values()) == {None}
    assert Reader(directory).load().step == 2


DEEP = "[" * 100_000


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("text", [DEEP, '{"a":' * 100_000, "1" * 5000, "", "[]", "3", "\ud800"])
def test_what_is_no_document(directory, document, text):
    (directory / "2" / document).write_text(text, errors="surrogatepass")
    if document != "checksums.json":
        resum(directory / "2")
    check(directory, document)


DEEP_TREE = '{"list": [' * 3_000 + "0" + "]}" * 3_000

METADATA = {
    "another step's": ("step", 1, "metadata/metadata is of step 1: the directory is a copy"),
    "step": ("step", "2", "step is '2'"),
    "step that is a bool": ("step", True, "step is True"),
    "timestamp": ("timestamp", None, "timestamp is None"),
    "metrics": ("metrics", [1], "metrics is a list"),
    "retention": ("retention", {"mode": 3}, "retention is a dict"),
    "superseded": ("superseded", 5, "superseded is 5"),
    "superseded rows": ("superseded", [[1, None], 3], "superseded is a list"),
    "token": ("token", [], "token is a list"),
    "versions": ("versions", "1", "versions is '1'"),
    "version": ("format_version", "2", "no format version (found '2')"),
    "float": ("epoch", {"__float__": [1]}, "metadata/metadata makes no sense"),
    "key": ("epoch", {"__items__": [[{}, 1]]}, "metadata/metadata makes no sense"),
    "deep": ("epoch", DEEP_TREE, "metadata/metadata"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_of_the_wrong_kind(directory, name):
    field, value, message = METADATA[name]
    path = directory / "2" / "metadata" / "metadata"
    content = json.loads(path.read_text())
    content[field] = "HERE"
    text = json.dumps(content)
    path.write_text(text.replace('"HERE"', value if name == "deep" else json.dumps(value)))
    resum(directory / "2")
    check(directory, message)


def test_a_newer_version_with_versions_of_the_wrong_kind(directory):
    change(directory, "metadata/metadata", lambda m: m | {"format_version": 99, "versions": []})
    with pytest.raises(CheckpointError, match="written by odyssey_jax unknown"):
        Reader(directory).load(2)


def row(layout, path):
    return next(row for row in layout["leaves"] if row[0] == path)


def put(path, place, value):
    return lambda layout: row(layout, path).__setitem__(place, value)


def pack(**fields):
    return lambda layout: layout["packs"]["float64"].update(fields)


W, LOOSE, EMPTY, KEY = "['params']['w']", "['sharded']", "['empty']", "['key']"
LAYOUTS = {
    "shape": put(W, 1, "abc"),
    "negative": put(W, 1, [-3]),
    "a bool": put(W, 1, [True]),
    "larger than its pack": put(W, 1, [10**12]),
    "beyond every pack": put(W, 1, [10**30]),
    "many dimensions": put(W, 1, [1] * 99 + [3]),
    "object": put(W, 2, "O"),
    "no dtype": put(W, 2, "i4,i4"),
    "another dtype": put(W, 2, "int64"),
    "other lies": put(W, 3, "elsewhere"),
    "no such array": put(W, 4, "float99"),
    "offset": put(W, 5, 10**6),
    "offset before": put(W, 5, -1),
    "offset of the wrong kind": put(W, 5, "0"),
    "path": put(W, 0, 3),
    "two of one path": put(W, 0, EMPTY),
    "empty with a shape": put(EMPTY, 1, [8]),
    "empty of a great shape": put(EMPTY, 1, [0, 10**30]),
    "loose outside": put(LOOSE, 4, "x/../../../../secret"),
    "loose absolute": put(LOOSE, 4, "/etc"),
    "loose above": put(LOOSE, 4, "tree./../../secret"),
    "loose that is packed": put(LOOSE, 4, "packed.float64"),
    "loose of another shape": put(LOOSE, 1, [10**9, 2]),
    "loose of another dtype": put(LOOSE, 2, "float64"),
    "key of no kind": put(KEY, 8, "enigma"),
    "key of another shape": put(KEY, 1, [7]),
    "key without words": put(KEY, 6, [3]),
    "inline of another kind": put("['python'][0]", 4, "text"),
    "inline of no kind": put("['python'][0]", 2, "list"),
    "short row": lambda layout: layout["leaves"].append([W]),
    "rows": lambda layout: layout | {"leaves": 5},
    "packs": lambda layout: layout | {"packs": []},
    "pack's name": lambda layout: layout["packs"].update({"../x": layout["packs"]["float64"]}),
    "pack of nothing": pack(size=0),
    "huge pack": pack(size=2**60, chunk=2**60),
    "many chunks": pack(size=2**60, chunk=1),
    "other chunk": pack(size=2**23, chunk=2**21),
    "pack of objects": pack(dtype="O"),
    "pack's stored": pack(stored="int8"),
    "pack with more": pack(more=1),
    "no tree": lambda layout: layout | {"tree": None},
    "tree of a number": lambda layout: layout | {"tree": True},
    "tree of words": lambda layout: layout["tree"]["dict"].update(a="list"),
    "tree of two kinds": lambda layout: layout["tree"].update(list=[]),
    "keys that cannot be": lambda layout: layout["tree"]["dict"]["items"].update(
        items=[[{}, 1], [[2, 3], None]]
    ),
    "nothing": lambda layout: {},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_cannot_be(directory, name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    change(directory, "layout/metadata", LAYOUTS[name])
    check(directory, "")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_a_deep_tree(directory):
    path = directory / "2" / "layout" / "metadata"
    layout = json.loads(path.read_text()) | {"tree": "HERE"}
    path.write_text(json.dumps(layout).replace('"HERE"', DEEP_TREE))
    resum(directory / "2")
    check(directory, "layout/metadata")


@pytest.mark.parametrize(
    "path",
    [
        "[" * 100_000,
        "[" + "(" * 5_000 + ")" * 5_000 + "]",
        "[" + "-" * 50_000 + "1]",
        "[0x" + "f" * 10_000 + "]",
        "['" * 50_000,
        '["' * 50_000 + "'",
        "[{[]: 1}]",
    ],
)
def test_a_path_that_exhausts_the_parser_is_one_key(path):
    assert "".join(part.text for part in split(path)) == path
    assert isinstance(name_of(path), str)


def test_an_array_outside_of_the_step(directory):
    """It is named with its checksum, and is not read."""
    secret = directory / "secret"
    secret.mkdir()
    (secret / "0").write_bytes(np.full(3, 12345.0).tobytes())
    name = "x/../../../secret"

    def lead_out(layout):
        layout["packs"][name] = layout["packs"].pop("float64") | {"size": 3, "chunk": 3}
        row(layout, W)[4] = name

    change(directory, "layout/metadata", lead_out)
    sums = json.loads((directory / "2/checksums.json").read_text())
    data = (secret / "0").read_bytes()
    sums["crc32"][f"state/packed.{name}/0"] = [len(data), zlib.crc32(data)]
    (directory / "2/checksums.json").write_text(json.dumps(sums))
    check(directory, "is no name of a file in the step's directory")


@pytest.mark.parametrize("name", ["/etc/passwd", "../1/metadata/metadata", "state//0", "a\\b", ""])
def test_a_checksum_of_a_file_elsewhere(directory, name):
    change(directory, "checksums.json", lambda sums: sums["crc32"].update({name: [3, 5]}))
    check(directory, "is no name of a file in the step's directory")


@pytest.mark.parametrize("row", [None, 5, [1], ["1", 2], [1, 2, 3], [-1, 2], [True, 2], [1.5, 2]])
def test_a_checksum_of_the_wrong_kind(directory, row):
    change(directory, "checksums.json", lambda sums: sums["crc32"].update({"a": row}))
    check(directory, "checksums.json makes no sense")


FILES = (*DOCUMENTS, "state/packed.float64/0", "state/tree.sharded/0.0", "state/_METADATA")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["fifo", "endless", "link", "nowhere", "directory"])
def test_what_is_no_regular_file(directory, file, kind):
    path = directory / "2" / file
    if kind == "link":
        path.rename(directory / "aside")
        path.symlink_to(directory / "aside")
    else:
        path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind != "link":
        path.symlink_to({"endless": "/dev/zero", "nowhere": directory / "nowhere"}[kind])
    check(directory, file)


@pytest.mark.parametrize("folder", ["metadata", "state", "state/packed.float64"])
def test_a_directory_of_a_step_that_is_a_link(directory, folder):
    (directory / "2" / folder).rename(directory / "aside")
    (directory / "2" / folder).symlink_to(directory / "aside")
    check(directory, f"{folder} is a link, which is not followed")


@pytest.mark.parametrize("file", [*DOCUMENTS, "state/packed.float64/0"])
def test_a_file_without_an_end_in_sight(directory, file):
    """Sparse: it takes no room on the disk, and would take all memory."""
    os.truncate(directory / "2" / file, 2**40)
    check(directory, f"{file} is {2**40} bytes long")


@pytest.mark.parametrize("file", DOCUMENTS[1:])
def test_a_document_that_says_so_itself(directory, file):
    os.truncate(directory / "2" / file, 2**40)
    change(directory, "checksums.json", lambda sums: sums["crc32"].update({file: [2**40, 0]}))
    check(directory, "a document has at most")


def test_a_huge_chunk_that_says_so_itself(directory):
    file = "state/packed.float64/0"
    change(directory, "layout/metadata", pack(size=2**38, chunk=2**38))
    os.truncate(directory / "2" / file, 2**41)
    change(directory, "checksums.json", lambda sums: sums["crc32"].update({file: [2**41, 0]}))
    check_load = Reader(directory)
    with pytest.raises(CheckpointCorruptError, match="packed array 'float64' cannot be so"):
        check_load.load(2)


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": [10**12, 2]},
        {"chunks": [1, 1]},
        {"chunks": ["2", 2]},
        {"chunks": [2, 2, 1]},
        {"compressor": {"id": "blosc"}},
        {"dtype": "<f8"},
        {"fill_value": 3},
        {"dimension_separator": "/"},
        {"order": "F"},
        {"more": 1},
    ],
)
def test_an_array_by_itself_that_is_not_the_leaf_s(directory, fields):
    change(directory, DOCUMENTS[-1], lambda zarray: zarray | fields)
    check(directory, f"{DOCUMENTS[-1]} makes no sense")


def test_a_step_that_is_another_s(directory):
    shutil.copytree(directory / "1", directory / "7")
    (directory / "8").symlink_to(directory / "1")
    reader = Reader(directory, monitor="loss")
    assert reader.steps() == (1, 2, 7)
    with pytest.raises(CheckpointCorruptError, match="metadata/metadata is of step 1"):
        reader.load(7)
    with pytest.raises(CheckpointCorruptError, match="metadata/metadata is of step 1"):
        reader.leaves(7)
    with pytest.raises(CheckpointNotFoundError, match="8' is a link, which is not followed"):
        reader.load(8)
    with pytest.warns(UserWarning, match="step 2 is taken"):
        assert reader.load().step == 2
    assert reader.best() == 2


def test_a_leaf_without_elements_holds_nothing_of_this_process():
    place = _layout.Place("['w']", (8,), "float64", "empty", (8,), "float64")
    from odyssey_jax.store._snapshot import unpack

    assert not unpack(place, {}).any()


def nodes(value, path=()):
    """The paths of all values in a document."""
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nodes(part, (*path, key))


ODD = [None, True, False, -1, 0, 1, 2, 10**6, 10**18, 10**30, 10**400, 1.5, -0.0, 1e308]
ODD += ["", "a", "..", "/", "\ud800", "float64", "O", "packed", "loose", "empty", "inline"]
ODD += [[], {}, [0], [[]], {"a": 1}, {"__float__": "nan"}, {"__float__": None}, {"list": 3}]
ODD += [{"__items__": [[1, 2]]}, {"__items__": 3}]


def again(value):
    """A copy; `copy.deepcopy` takes two calls of Python for a level."""
    return json.loads(json.dumps(value))


def mangle(document, chance):
    """One change: a swap of two values, another kind, a deletion, a duplication, a deep nesting."""
    paths = [path for path in nodes(document) if path]
    if not paths:
        return chance.choice(ODD)
    path = chance.choice(paths)
    *above, last = path
    parent = functools.reduce(lambda node, key: node[key], above, document)
    kind = chance.randrange(6)
    if kind == 0:
        del parent[last]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(last, again(parent[last]))
    elif kind == 1:
        parent[f"{last}x"] = again(parent[last])
    elif kind == 2:
        *other, key = chance.choice(paths)
        source = functools.reduce(lambda node, key: node[key], other, document)
        parent[last] = again(source[key])
    elif kind == 3:
        parent[last] = functools.reduce(lambda inner, _: [inner], range(60), parent[last])
    else:
        parent[last] = again(chance.choice(ODD))
    return document


@pytest.fixture(scope="module")
def to_mangle(saved, tmp_path_factory):
    return shutil.copytree(saved, tmp_path_factory.mktemp("mangled") / "store")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_only_the_documented_errors_come_out(to_mangle, seed):
    chance, base = random.Random(seed), to_mangle
    path = base / "2" / chance.choice([*DOCUMENTS, *DOCUMENTS[1:3], "state/_METADATA"])
    before = {file: file.read_bytes() for file in (path, base / "2" / "checksums.json")}
    try:
        document = json.loads(path.read_text())
        for _ in range(chance.choice([1, 1, 2, 5])):
            document = mangle(document, chance)
        path.write_text(json.dumps(document))
        if path.name != "checksums.json":
            resum(base / "2")
        found = outcomes(base)
        for name in ("steps", "size", "best", "latest", "newest"):
            assert isinstance(found[name], CheckpointVersionError | None), (name, found[name])
    finally:
        for file, data in before.items():
            file.write_bytes(data)


def test_a_document_that_could_not_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("odyssey_jax.store._checksums.DOCUMENT_BYTES", 10_000)
    store = Store(tmp_path)
    store.save(1, {"text": "a" * 20_000}, {})
    with pytest.raises(CheckpointError, match="layout/metadata would be .* save what is long as"):
        store.close()
    assert store.steps() == ()


def test_numbers_of_a_tree_are_numbers():
    with pytest.raises(ValueError, match="no node"):
        numbers_in({"list": [True]})
    assert _files.check_inside("state/packed.float32/0")
