"""Trees of every kind come back with the same structure: a table, and trees at random."""

import collections
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import core, nnx, struct
from hypothesis import given, settings
from hypothesis import strategies as st

from odyssey_jax.store import Store
from tests.store.conftest import Box, Pair, assert_same, bits, blank

# A number lengthens it: ODYSSEY_TREES=2000.
EXAMPLES = int(os.environ.get("ODYSSEY_TREES", "15"))


class Point(struct.PyTreeNode):
    """A node with a part that is no leaf."""

    x: Any
    name: str = struct.field(pytree_node=False, default="p")


class Model(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def one(value):
    return jnp.full(1, value)


def label(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)


PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3, jnp.bfloat16)}
_, NNX_PARAMS, NNX_REST = nnx.split(Model(nnx.Rngs(0)), nnx.Param, ...)

KEY = jax.random.key(1)
TREES = {
    "a dot and a node": {"a.b": one(1), "a": {"b": one(2)}},
    "a slash and a node": {"a/b": one(1), "a": {"b": one(2), "": {"b": one(3)}}},
    "empty keys": {"": {"": one(1), "a": one(2)}},
    "quotes and brackets": {"it's": one(1), 'a"b': one(2), "['a']": one(3), "][": {"\\": one(4)}},
    "what Orbax writes": {"packed": one(1), "loose": one(2), ".zarray": one(3), "..": one(4)},
    "not ASCII": {"größe": one(1), "大": {"\n\t\0": one(2)}, "\ud800": one(3)},
    "long keys": {"k" * 5000: one(1), "k" * 4999: {"k" * 300: one(2)}},
    "numbers as keys": {0: one(0), -1: one(1), 10: one(2), 9: {"0": one(3)}},
    "other keys": {("a", 1): one(1), ("a", 2): {2.5: one(2), True: one(3)}},
    "nothing in a node": [None, {}, [], (), {"a": None}, optax.EmptyState(), core.freeze({})],
    "tuples and lists": ((one(1),), [one(2), (one(3), [])], ((), ((one(4),),))),
    "ordered": collections.OrderedDict(b=one(1), a=one(2)),
    "default": collections.defaultdict(list, a=[one(1)]),
    "dataclasses": Box(Point(one(1), "q")),
    "NamedTuple in NamedTuple": Pair(Pair(one(1), None), Pair((), one(2))),
    "frozen": core.freeze({"params": {"dense": {"kernel": one(1)}}}),
    "nnx parameters": NNX_PARAMS,
    "nnx rest": NNX_REST,
    "optax chain": optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(1, 0, 3))
    ).init(PARAMS),
    "optax by label": optax.multi_transform(
        {"w": optax.adam(1e-3), "b": optax.sgd(0.1, momentum=0.9)}, label
    ).init(PARAMS),
    "optax hyperparameters": optax.inject_hyperparams(optax.adam)(learning_rate=0.1).init(PARAMS),
    "optax steps": optax.MultiSteps(optax.adam(1e-3), 4).init(PARAMS),
    "python": [0, -1, 2**70, 1.5, -0.0, 5e-324, float("inf"), float("nan"), True, "", "\ud800 ü"],
    "numpy scalars": [np.float32(3), np.int8(-1), np.bool_(True), np.complex64(1j)],
    "no elements": [jnp.zeros((0, 4)), np.zeros((2, 0), np.int8), jax.random.split(KEY, 0)],
    "keys": [KEY, jax.random.key(2, impl="rbg"), jax.random.split(KEY, (2, 2))],
    "raw keys": [jax.random.key_data(KEY), jax.random.PRNGKey(3)],
    "a leaf": one(1),
    "a number": 3,
    "None": None,
}  # fmt: skip
DTYPES = [
    "bool", "int2", "int4", "int8", "int16", "int32", "uint2", "uint4", "uint8", "uint16", "uint32",
    "float16", "bfloat16", "float32", "complex64", "float4_e2m1fn", "float8_e3m4", "float8_e4m3",
    "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
    "float8_e8m0fnu",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for all trees, each in the place of the one before."""
    with Store(tmp_path_factory.mktemp("trees")) as store:
        yield store


def saved(store, tree):
    store.save((store.latest() or 0) + 1, tree, {})
    store.wait()
    return store


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_as_it_was(store, name):
    tree = TREES[name]
    restored = saved(store, tree).restore(blank(tree))
    assert_same(restored.tree, tree)
    assert len(restored.report.matched) == len(jax.tree.leaves(tree))
    assert_plain(store.load().tree, tree)


def test_every_dtype_comes_back_to_the_bit(store):
    tree = {name: jnp.asarray(np.arange(5) % 2, name) for name in DTYPES}
    tree |= {name: np.arange(5).astype(name) for name in ("int64", "float64", "complex128")}
    assert_same(saved(store, tree).restore(blank(tree)).tree, tree)
    assert_plain(store.load().tree, tree)


def assert_plain(found, tree):
    """What is loaded without a target: the same leaves, in dictionaries, lists and tuples."""
    if tree is None or jax.tree_util.all_leaves([tree]):
        is_key = isinstance(tree, jax.Array) and jnp.issubdtype(tree.dtype, jax.dtypes.prng_key)
        is_array = isinstance(tree, np.ndarray | np.generic | jax.Array) and not is_key
        assert bits(found) == bits(np.asarray(tree) if is_array else tree)
        assert isinstance(found, np.ndarray) == is_array
    elif type(tree) in (list, tuple):
        assert type(found) is type(tree)
        assert len(found) == len(tree)
        for part, like in zip(found, tree, strict=True):
            assert_plain(part, like)
    else:
        parts = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is not tree)[0]
        wanted = {getattr(path[0], "key", getattr(path[0], "name", "")): x for path, x in parts}
        assert type(found) is dict
        assert {(type(key), key) for key in found} == {(type(key), key) for key in wanted}
        for key, like in wanted.items():
            assert_plain(found[key], like)


def an_array(dtype, shape):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2
    return jnp.asarray(values, dtype)


arrays = st.builds(
    an_array,
    st.sampled_from(["float32", "bfloat16", "int4", "bool", "uint32", "float8_e4m3fn"]),
    st.lists(st.integers(0, 3), max_size=2).map(tuple),
)
scalars = st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
keys = st.text(max_size=4) | st.sampled_from(["a", "b", "a.b", "a/b", ""])
leaves = arrays | scalars | st.none() | st.integers(0, 9).map(jax.random.key)
trees = st.recursive(
    leaves,
    lambda tree: st.one_of(
        st.dictionaries(keys, tree, max_size=3),
        st.dictionaries(st.integers(-2, 12), tree, max_size=3),
        st.lists(tree, max_size=3),
        st.lists(tree, max_size=2).map(tuple),
        st.builds(Pair, tree, tree),
        st.builds(Box, tree),
        st.dictionaries(keys, tree, max_size=2).map(core.freeze),
    ),
    max_leaves=8,
)


@settings(max_examples=EXAMPLES)
@given(trees)
def test_trees_at_random(store, tree):
    assert_same(saved(store, tree).restore(blank(tree)).tree, tree)
    assert_plain(store.load().tree, tree)
