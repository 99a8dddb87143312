"""The structure of a tree, in plain values and back, without a disk."""

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import core, nnx
from hypothesis import given
from hypothesis import strategies as st

from odyssey_jax.store import CheckpointError
from odyssey_jax.store._structure import build, find, numbers_in, structure_of
from tests.store.conftest import Box, Pair


@jax.tree_util.register_pytree_node_class
class Bare:
    """A node whose parts have no names."""

    def tree_flatten(self):
        return (1, {"a": 2}), None

    @classmethod
    def tree_unflatten(cls, aux, parts):
        return cls()


keys = st.one_of(st.text(max_size=5), st.sampled_from(["", "a.b", "a/b", "'", '"', "\n", "]["]))
trees = st.recursive(
    st.integers(0, 9) | st.none(),
    lambda tree: (
        st.dictionaries(keys, tree, max_size=3)
        | st.dictionaries(st.integers(-2, 3), tree, max_size=3)
        | st.lists(tree, max_size=3)
        | st.lists(tree, max_size=3).map(tuple)
    ),
    max_leaves=12,
)


def through_json(tree):
    node = json.loads(json.dumps(structure_of(tree), allow_nan=False))
    return node, build(node, dict(enumerate(jax.tree.leaves(tree))))


def exact(tree):
    """A tree with its types, which `==` does not compare."""
    if isinstance(tree, dict):
        return {(type(key), key): exact(part) for key, part in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree), [exact(part) for part in tree]
    return tree


@given(trees)
def test_dictionaries_lists_tuples_and_none_come_back(tree):
    node, again = through_json(tree)
    assert exact(again) == exact(tree)
    assert numbers_in(node) == list(range(len(jax.tree.leaves(tree))))


OTHERS = {
    "NamedTuple": (Pair(1, None), {"left": 1, "right": None}),
    "dataclass": (Box([1]), {"content": [1]}),
    "empty NamedTuple": (optax.EmptyState(), {}),
    "no names": (Bare(), {"<flat index 0>": 1, "<flat index 1>": {"a": 2}}),
    "FrozenDict": (core.freeze({"a": {"b": 1}, "c": {}}), {"a": {"b": 1}, "c": {}}),
    "empty FrozenDict": (core.freeze({}), {}),
    "OrderedDict": (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "defaultdict": (collections.defaultdict(list, a=[1]), {"a": [1]}),
    "odd keys": ({(1, "a"): 1, (1, "b"): {2.5: 2}}, {(1, "a"): 1, (1, "b"): {2.5: 2}}),
    "bool keys": ({False: 1, True: 2}, {False: 1, True: 2}),
    "keys of no plain kind": ({np.int64(3): 1}, {"np.int64(3)": 1}),
    "leaf": (7, 7),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_nodes_come_back_as_dictionaries(case):
    tree, expected = OTHERS[case]
    assert exact(through_json(tree)[1]) == exact(expected)


def test_a_models_and_an_optimizers_state():
    state = nnx.split(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))[1]
    optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init({"w": jnp.ones(3)})
    assert sorted(through_json(state)[1]) == ["bias", "kernel"]
    clip, (adam, rest) = through_json(optimizer)[1]
    assert (clip, rest, sorted(adam)) == ({}, {}, ["count", "mu", "nu"])


def test_a_node_is_found_by_its_name():
    node = structure_of({"a": {"b": 1, "": 3}, "a/b": [1, None], "c": Pair({}, 2)})
    assert find(node, "") == (0, node)
    assert find(node, "a/b/1") == (2, None)
    assert find(node, "c/left") == (2, {"dict": {}})
    assert find(node, "a/") == (2, 0)
    with pytest.raises(CheckpointError, match="the subtree 'a/b' is not one node but 2"):
        find(node, "a/b")
    with pytest.raises(
        CheckpointError, match="no subtree 'd'; there are 'a', 'a/b', 'c', 'a/', 'a/b', 'a/b/0'"
    ):
        find(node, "d")
    with pytest.raises(CheckpointError, match="no subtree 'd'; there are none"):
        find(0, "d")
