"""Packing without a disk: no two leaves overlap, every leaf is aligned, nothing is lost."""

import json
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from odyssey_jax.store._layout import CHUNK_BYTES, Source, from_json, has_name, plan, to_json
from odyssey_jax.store._leaves import Leaf

shapes = st.lists(st.integers(0, 5000), max_size=2).map(tuple)
dtypes = st.sampled_from(["float32", "bfloat16", "int4", "bool", "complex128", "uint4"])
homes = st.sampled_from(["host", "0", "3", "spread"])
trees = st.lists(st.tuples(shapes, dtypes, homes), max_size=20)


def sources(tree):
    return [
        Source(Leaf(f"[{i}]", shape, dtype), shape, dtype, home)
        for i, (shape, dtype, home) in enumerate(tree)
    ]


def nbytes(shape, dtype):
    return math.prod(shape) * np.dtype(dtype).itemsize


@settings(max_examples=60, deadline=None)
@given(trees)
def test_leaves_lie_apart_aligned_and_inside(tree):
    layout = plan(sources(tree), pack_below=4096)
    ends = dict.fromkeys(layout.packs, 0)
    for place, (shape, dtype, home) in zip(layout.places, tree, strict=True):
        if math.prod(shape) == 0:
            assert place.lies == "empty"
        elif home == "spread" or (nbytes(shape, dtype) >= 4096 and has_name(dtype)):
            assert place.lies == "loose"
            assert layout.homes[place.array] == home
        else:
            assert place.offset * np.dtype(layout.packs[place.array].dtype).itemsize % 64 == 0
            assert place.offset >= ends[place.array]
            assert layout.packs[place.array].dtype == dtype
            ends[place.array] = place.offset + place.size
    for name, pack in layout.packs.items():
        assert ends[name] <= pack.size
        assert pack.size % pack.chunk == 0
        assert pack.chunk * np.dtype(pack.stored).itemsize <= CHUNK_BYTES + 64
        assert (pack.size - ends[name]) <= pack.size // pack.chunk * 64


@settings(max_examples=60, deadline=None)
@given(trees)
def test_json_and_back(tree):
    layout = plan(sources(tree), {"list": list(range(len(tree)))})
    assert from_json(json.loads(json.dumps(to_json(layout)))) == layout


def test_a_small_tree_is_not_padded():
    (pack,) = plan(sources([((3,), "float32", "host"), ((2,), "float32", "host")])).packs.values()
    assert (pack.size, pack.chunk) == (18, 18)


def test_the_leaves_of_each_device_are_together():
    layout = plan(sources([((3,), "float32", "0"), ((3,), "float32", "host")]))
    assert set(layout.packs) == {"float32", "float32_0"}


def names(*paths):
    found = plan([Source(Leaf(path, (3,), "int8"), (3,), "int8") for path in paths], pack_below=1)
    return [place.array for place in found.places]


def test_arrays_by_themselves_are_called_as_their_leaves_are():
    assert names(".params['layers'][0]['kernel']") == ["tree.params.layers.0.kernel"]
    assert names("['a.b']", "['a']['b']") == ["tree.a%2Eb", "tree.a.b"]
    assert names("['~/../x']", "['ü']") == ["tree.%7E%2F%2E%2E%2Fx", "tree.%C3%BC"]


def test_a_name_that_is_taken_too_long_or_empty_is_a_number():
    assert names("[1]", "['1']") == ["tree.1", "tree.~00001"]
    assert names("['W']", "['w']") == ["tree.W", "tree.~00001"]
    assert names("['a']", ".a['b']", ".c['b']", "['c']") == [
        "tree.a", "tree.~00001", "tree.c.b", "tree.~00003",
    ]  # fmt: skip
    assert names("", "['']", f"['{'a' * 201}']") == [f"tree.~0000{i}" for i in range(3)]
