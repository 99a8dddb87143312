"""Device-resident data: every example once a pass, as a pure function of the key and step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import odyssey_jax as ody


def one_pass(data, key, index):
    order = data.order(key, index)
    batches = [data.batch(order, i) for i in range(data.full_batches)]
    return batches + ([data.last_batch(order)] if data.remainder else [])


@given(
    st.integers(1, 10).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
    st.booleans(),
    st.booleans(),
)
def test_every_example_once_a_pass(sizes, shuffle, drop):
    examples, batch_size = sizes
    data = ody.ArrayDataset(np.arange(examples), batch_size, shuffle=shuffle, drop_remainder=drop)
    batches = one_pass(data, jax.random.key(0), 3)
    assert len(batches) == data.steps_per_pass
    seen = np.concatenate(batches).tolist()
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(examples))
    assert len(seen) == (examples // batch_size * batch_size if drop else examples)
    if not shuffle:
        assert seen == sorted(seen)


def test_what_the_caller_writes_later_is_not_seen():
    for _ in range(20):  # whether JAX aliases an array depends on where it lies
        x = np.zeros((1_000, 64), np.float32)
        data = ody.ArrayDataset(x, 10)
        x[:] = 1.0
        assert not np.any(data.data)


def test_passes_differ_and_are_reproducible():
    data = ody.ArrayDataset(np.arange(100), 100, shuffle=True)
    orders = [np.asarray(data.order(jax.random.key(0), i)) for i in (0, 1, 0)]
    np.testing.assert_array_equal(orders[0], orders[2])
    assert (orders[0] != orders[1]).any()
    assert (orders[0] != np.asarray(data.order(jax.random.key(1), 0))).any()


def test_rows_stay_together_and_dtypes_are_kept():
    x = np.arange(12, dtype=np.int8).reshape(6, 2)
    data = ody.ArrayDataset({"x": x, "y": np.arange(6, dtype=np.float16)}, 4, shuffle=True)
    for batch in one_pass(data, jax.random.key(0), 0):
        assert (batch["x"].dtype, batch["y"].dtype) == (jnp.int8, jnp.float16)
        np.testing.assert_array_equal(batch["x"][:, 0], 2 * batch["y"])


def test_is_a_pytree_whose_structure_survives_jit_and_vmap():
    data = ody.ArrayDataset(jnp.arange(6.0), 2, shuffle=True, drop_remainder=True)
    again = jax.jit(lambda d: d)(data)
    assert (again.batch_size, again.shuffle, again.drop_remainder) == (2, True, True)
    total = jax.vmap(lambda d: d.batch(None, 1).sum(), in_axes=(None,), axis_size=3)(data)
    assert total.tolist() == [5.0] * 3
    assert jax.tree.map(jnp.shape, data).data == (6,)


@pytest.mark.parametrize(
    ("data", "batch_size", "message"),
    [
        (
            np.zeros(5),
            6,
            "batch_size must be an integer from 1 to the number of examples, 5; got 6",
        ),
        (np.zeros(5), 0, "got 0"),
        (np.zeros(5), 2.0, "got 2.0"),
        (
            {"x": np.zeros((5, 2)), "y": np.zeros(4)},
            2,
            r"differ in their number of examples: \{\"\['x'\]\": 5, \"\['y'\]\": 4\}",
        ),
        ({"x": 3.0}, 1, r"must hold arrays \[examples, ...\], got shapes"),
        ({}, 1, "must hold arrays"),
        (np.zeros((0, 2)), 1, "the number of examples, 0; got 1"),
    ],
)
def test_bad_arguments_are_refused(data, batch_size, message):
    with pytest.raises(ValueError, match=message):
        ody.ArrayDataset(data, batch_size)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([2**33 + 5, 7]), r"data\['id'\] holds 8589934597, as int64"),
        (np.array([-(2**40), 7]), r"data\['id'\] holds -1099511627776, as int64"),
        (np.array([1, 2**32], np.uint64), r"data\['id'\] holds 4294967296, as uint64"),
        (np.array(["a", "b"]), r"data\['id'\].* dtype <U1: encode text as integers"),
        (np.array([None, 1]), r"data\['id'\].* dtype object: stack it"),
        (np.array(["2020", "2021"], "M8[Y]"), r"data\['id'\].* datetime64"),
        (None, r"data\['id'\] is None"),
    ],
)
def test_what_the_device_cannot_hold_is_refused_by_its_path(values, message):
    with pytest.raises(ValueError, match=message):
        ody.ArrayDataset({"id": values, "x": np.ones(2)}, 1)


def test_64_bits_that_fit_in_32_are_taken():
    data = ody.ArrayDataset({"i": np.array([2**31 - 1, 7]), "f": np.ones(2)}, 1)
    assert data.data["i"].tolist() == [2**31 - 1, 7]
    assert repr(data) == "ArrayDataset({'f': float32[2], 'i': int32[2]}, batch_size=1)"


def test_a_transform_is_static():
    flip = lambda batch, key: -batch
    data = ody.ArrayDataset(jnp.arange(6.0), 2, transform=flip)
    again = jax.jit(lambda d: d)(data)
    assert again.transform is ody.data.transform_of(again) is flip
    assert jax.tree.structure(data) != jax.tree.structure(ody.ArrayDataset(jnp.arange(6.0), 2))
    assert repr(data).startswith("ArrayDataset(float32[6], batch_size=2, transform=<function")
    assert ody.data.transform_of(ody.HostDataset(np.arange(6.0), 2, transform=flip)) is flip
