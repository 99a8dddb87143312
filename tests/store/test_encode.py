"""Metadata survives strict JSON."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odyssey_jax.store._format import decode, dumps, encode

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
