"""What goes where on the way to a target, and how the two differ: decided without a disk."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odyssey_jax.store import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    Store,
    Transfer,
    _layout,
)
from odyssey_jax.store._leaves import Leaf, flatten, name_of, split
from odyssey_jax.store._match import assign, compare, mismatch

THREE = [
    Leaf("['a']", (3,), "float32"),
    Leaf("['b']", (), "int32"),
    Leaf("['c']", (2,), "bool"),
]


def test_equal_trees_match_in_any_order():
    report = compare(THREE, THREE[::-1])
    assert report.exact
    assert set(report.matched) == {"['a']", "['b']", "['c']"}


def test_every_kind_of_difference_is_reported_once():
    target = [
        Leaf("['a']", (4,), "bfloat16"),
        Leaf("['b']", (), "int32"),
        Leaf("['d']", (), "bool"),
    ]
    report = compare(THREE, target)
    assert not report.exact
    error = mismatch(report, "checkpoint 3")
    assert error.missing == ("['d']",)
    assert error.extra == ("['c']",)
    assert error.shape == {"['a']": ((3,), (4,))}
    assert error.dtype == {"['a']": ("float32", "bfloat16")}
    assert str(error) == (
        "checkpoint 3 does not match the target: 1 leaf agrees, 3 differ. Build the model and "
        "the optimizer as they were when it was saved, start over in another directory, or "
        "restore a part of it with Store.restore(transfer=...).\n"
        "  missing from the checkpoint: ['d'] bool[]\n"
        "  extra in the checkpoint: ['c'] bool[2]\n"
        "  shape: ['a'] saved (3,), target (4,)\n"
        "  dtype: ['a'] saved float32, target bfloat16"
    )


def test_a_long_list_is_cut():
    many = [Leaf(f"[{i}]", (), "bool") for i in range(100)]
    lines = str(mismatch(compare(many, []), "x")).splitlines()
    assert len(lines) == 14
    assert lines[-1] == "  extra in the checkpoint: and 88 more"


class Carry(NamedTuple):
    """A NamedTuple node."""

    params: Any
    rest: Any


def leaves(**shapes):
    """A leaf for each name, whose double underscores are steps down."""
    paths = {name: "".join(f"['{key}']" for key in name.split("__")) for name in shapes}
    return [Leaf(paths[name], shape, "float32") for name, shape in shapes.items()]


SAVED = leaves(enc__w=(3,), enc__b=(3,), head__w=(3, 10), head__b=(10,), step=())


def test_without_a_transfer_every_leaf_goes_to_its_own_path():
    sources, report = assign(SAVED, SAVED[::-1])
    assert sources == tuple(leaf.path for leaf in SAVED[::-1])
    assert report.exact
    assert (report.renamed, report.initialized, report.ignored) == ({}, (), ())


def test_rename_another_head_and_what_is_not_wanted():
    target = leaves(body__w=(3,), body__b=(3,), head__w=(3, 2), head__b=(10,))
    transfer = Transfer(rename={"^enc/": "body/"}, initialize=["^head/"], ignore=["^step$"])
    sources, report = assign(SAVED, target, transfer)
    # The head is new as a whole, its bias too, although that happens to have the old shape.
    assert sources == ("['enc']['w']", "['enc']['b']", None, None)
    assert report.exact
    assert report.matched == ("['body']['w']", "['body']['b']")
    assert report.renamed == {"['enc']['w']": "body/w", "['enc']['b']": "body/b"}
    assert [leaf.path for leaf in report.initialized] == ["['head']['w']", "['head']['b']"]
    assert [leaf.path for leaf in report.ignored] == [leaf.path for leaf in SAVED[2:]]
    assert str(report).splitlines()[0] == "2 leaves agree, 0 differ, 2 initialized, 3 ignored"


def test_what_no_pattern_speaks_of_stays_strict():
    target = leaves(body__w=(4,), enc__b=(3,), other=())
    _, report = assign(SAVED, target, Transfer(rename={"enc/w": "body/w"}, ignore=["head"]))
    assert not report.exact
    assert [leaf.path for leaf in report.missing] == ["['other']"]
    assert [leaf.path for leaf in report.extra] == ["['step']"]
    assert report.shape == {"['body']['w']": ((3,), (4,))}


def test_a_new_name_that_the_target_lacks_is_extra():
    _, report = assign(SAVED, SAVED[1:], Transfer(rename={"^enc/w": "en/w"}))
    assert [leaf.path for leaf in report.extra] == ["['enc']['w']"]
    assert "extra in the checkpoint: ['enc']['w'] float32[3], renamed to en/w" in str(report)


def test_patterns_are_applied_one_after_the_other_with_groups():
    saved = leaves(layers_0__w=(), layers_1__w=())
    target = leaves(blocks__0__kernel=(), blocks__1__kernel=())
    transfer = Transfer(rename={r"^layers_(\d+)": r"blocks/\1", "w$": "kernel"})
    sources, report = assign(saved, target, transfer)
    assert report.exact
    assert sources == ("['layers_0']['w']", "['layers_1']['w']")


def test_two_leaves_may_change_names():
    saved = leaves(a=(), b=())
    transfer = Transfer(rename={"^a$": "tmp", "^b$": "a", "^tmp$": "b"})
    assert assign(saved, saved, transfer).sources == ("['b']", "['a']")


def test_a_name_stands_for_any_kind_of_key():
    saved = flatten(Carry({"w": 1.0}, [2.0]))[0]
    target = flatten({"params": {"w": 0.0}, "rest": (0.0,)})[0]
    assert not assign(saved, target).report.exact
    sources, report = assign(saved, target, Transfer(rename={"^": ""}))
    assert sources == (".params['w']", ".rest[0]")
    assert report.exact
    assert report.renamed == {".params['w']": "params/w", ".rest[0]": "rest/0"}


def test_an_ignored_leaf_that_the_target_wants_is_missing():
    _, report = assign(SAVED, SAVED, Transfer(ignore=["step"]))
    assert [leaf.path for leaf in report.missing] == ["['step']"]


REFUSED = {
    "rename": (
        Transfer(rename={"^encoder/": "x/"}),
        r"rename: the pattern '\^encoder/' is found in none of the checkpoint's names, which are "
        r"'enc/w', 'enc/b'",
    ),
    "initialize": (Transfer(initialize=["tail"]), "initialize: the pattern 'tail' .* the target's"),
    "ignore": (Transfer(ignore=["tail"]), "ignore: the pattern 'tail' .* the checkpoint's"),
    "second": (Transfer(ignore=["step", "tail"]), "the pattern 'tail'"),
    "used up": (Transfer(rename={"enc": "x", "^enc/w": "y"}), "the pattern '\\^enc/w'"),
    "clash": (
        Transfer(rename={"^enc/w": "enc/b"}),
        r"two leaves of the checkpoint go to \['enc'\]\['b'\]: \['enc'\]\['w'\] and ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_pattern_that_does_nothing_is_refused(case):
    transfer, message = REFUSED[case]
    with pytest.raises(CheckpointError, match=message):
        assign(SAVED, SAVED, transfer)


def test_a_new_name_that_is_two_leaves_is_refused():
    target = flatten({"a/b": 1, "a": {"b": 2}})[0]
    with pytest.raises(CheckpointError, match=r"several of the target's .* the name 'a/b': \"\['a"):
        assign(leaves(x=()), target, Transfer(rename={"x": "a/b"}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initialize": "head"}, r"initialize must be a list of patterns, .* got 'head'"),
        ({"ignore": {"a": 1}}, r"ignore must be a list of patterns"),
        ({"rename": ["a", "b"]}, r"rename must map patterns to replacements, got \['a', 'b'\]"),
        ({"ignore": ["(a"]}, r"'\(a' is not a regular expression: missing \)"),
        ({"ignore": [3]}, r"3 is not a regular expression"),
        ({"rename": {"a": r"\1"}}, r"'a' -> '\\\\1' is not a regular expression: invalid group"),
    ],
)
def test_a_transfer_is_checked_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        Transfer(**arguments)


keys = st.one_of(
    st.text(max_size=6), st.integers(), st.tuples(st.text(max_size=3), st.integers()), st.booleans()
)


@given(st.lists(keys, min_size=1, max_size=5))
def test_a_path_is_taken_apart_into_its_keys(found):
    tree = 0
    for key in reversed(found):
        tree = {key: tree}
    (leaf,) = flatten(tree)[0]
    assert [part.key for part in split(leaf.path)] == found
    assert "".join(part.text for part in split(leaf.path)) == leaf.path
    assert name_of(leaf.path) == "/".join(map(str, found))


def test_names_are_those_of_jax():
    tree = {"a": [1, {"it's": 2, 'q"]': 3}], "b": jax.tree_util.Partial(len, 1)}
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
        text = jax.tree_util.keystr(path)
        if "flat index" not in text:
            assert name_of(text) == jax.tree_util.keystr(path, simple=True, separator="/")


def test_a_transfer_reads_what_it_says(tmp_path):
    saved = {
        "enc": {"w": jnp.arange(3.0), "k": jax.random.key(1)},
        "head": np.ones(4),
        "n": 3,
        "half": jnp.ones(2, jnp.bfloat16),
    }
    target = {
        "body": {"w": jnp.zeros(3), "k": jax.random.key(2)},
        "head": jnp.full(2, 7.0),
        "key": jax.random.key(5),
        "n": 0,
        "m": 8,
    }
    transfer = Transfer(
        rename={"^enc/": "body/"}, initialize=["^head", "^key$", "^m$"], ignore=["half"]
    )
    with Store(tmp_path) as store:
        store.save(1, saved, {})
        store.wait()
        tree, report = store.restore(target, transfer=transfer)[1::2]
        np.testing.assert_array_equal(tree["body"]["w"], np.arange(3.0))
        assert jnp.array_equal(*map(jax.random.key_data, (tree["body"]["k"], saved["enc"]["k"])))
        assert (tree["n"], tree["m"]) == (3, 8)
        assert report.exact
        # What is kept is a copy: the tree may be donated, and the target lives on.
        jax.jit(lambda x: x, donate_argnums=0)(tree["head"])
        jax.jit(lambda x: x, donate_argnums=0)(tree["key"])
        np.testing.assert_array_equal(target["head"], [7, 7])
        assert not target["key"].is_deleted()

        shapes = target | {"head": jax.ShapeDtypeStruct((2,), jnp.float32)}
        with pytest.raises(ValueError, match=r"leaf \['head'\] is to keep .*ShapeDtypeStruct"):
            store.restore(shapes, transfer=transfer)
        with pytest.raises(CheckpointMismatchError, match="leaf agrees, 1 differ") as error:
            store.restore({"w": jnp.zeros(3), "k": np.zeros(3)}, subtree="enc")
        assert error.value.dtype == {"['k']": ("key<fry>", "float64")}
        assert store.restore(0, subtree="n").tree == 3
        with pytest.raises(
            CheckpointError, match="no subtree 'state/params'; there are 'enc', 'ha"
        ):
            store.restore(0, subtree="state/params")


def test_a_subtree_reads_the_files_that_it_lies_in_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(_layout, "CHUNK_BYTES", 4096)
    tree = {"a": np.arange(1024.0), "b": {"c": np.arange(2000.0)}, "d": np.ones(3, np.int32)}
    with Store(tmp_path) as store:
        store.save(1, tree, {})
        store.wait()
        damage = tmp_path / "1" / "state" / "packed.float64" / "0"
        damage.write_bytes(bytes([1]) + damage.read_bytes()[1:])
        np.testing.assert_array_equal(store.load(1, subtree="b").tree["c"], np.arange(2000.0))
        blank = {"c": np.zeros(2000)}
        np.testing.assert_array_equal(
            store.restore(blank, 1, subtree="b").tree["c"], tree["b"]["c"]
        )
        transfer = Transfer(ignore=["^a$"])
        found = store.restore({"b": blank, "d": tree["d"]}, 1, transfer=transfer).tree
        np.testing.assert_array_equal(found["b"]["c"], tree["b"]["c"])
        for subtree in ("a", ""):
            with pytest.raises(CheckpointCorruptError, match=r"packed.float64/0 .*\['a'\]"):
                store.load(1, subtree=subtree)
