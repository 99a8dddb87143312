"""Data that stays on the host: an order without memory, shares, and arrays that are read."""

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from hypothesis import given
from hypothesis import strategies as st

import odyssey_jax as ody
from odyssey_jax.data._contents import WHOLE
from odyssey_jax.data._hosted import _SPLIT
from odyssey_jax.data._permutation import permute
from tests.data.laws import SEED, assert_equal, check_goes_on, examples, reads


@given(st.integers(1, 3_000), st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_a_permutation_is_one(n, seed, stream):
    assert sorted(permute(np.arange(n), n, seed, stream)) == list(range(n))


@pytest.mark.parametrize("n", [4, 5])
def test_all_permutations_are_as_likely(n):
    """Chi-square over the n! orders of 6,000 streams of one seed; 2 is far beyond what chance does
    with these many degrees of freedom, and a Feistel network of 4 rounds has 27 and more."""
    times, orders = 6_000, list(itertools.permutations(range(n)))
    found = collections.Counter(tuple(permute(np.arange(n), n, 3, i)) for i in range(times))
    mean = times / len(orders)
    chi_square = sum((found[order] - mean) ** 2 / mean for order in orders)
    assert chi_square / (len(orders) - 1) < 2.2


def test_places_are_uniform_and_neighbours_independent():
    n, cells = 10**9 + 7, 20
    places = permute(np.arange(100_000), n, 5)
    assert len(set(places.tolist())) == len(places)
    for sample in (places, np.diff(places) % n):
        counts = np.bincount(sample * cells // n, minlength=cells)
        chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert chi_square < 43.8  # the 0.1 % point for 19 degrees of freedom


def test_the_order_of_a_seed_stays_as_it_is():
    """A resume by another version of the package or of NumPy reads the same order."""
    assert permute(np.arange(6), 10, 7, 2).tolist() == [2, 7, 4, 8, 3, 6]
    assert permute(np.arange(2), 10**9 + 7, 7).tolist() == [818438323, 795687132]


def test_an_order_of_a_billion_examples_takes_no_memory():
    class Endless:  # an array that says what it is asked for
        shape, dtype = (10**9 + 7,), np.dtype(np.int32)

        def __getitem__(self, rows):
            return rows.astype(np.int32)

    data = ody.HostDataset(Endless(), 128, shuffle=True)
    assert data.steps_per_pass == 7_812_501
    batch = data.reader(SEED, 7_812_499).read()
    assert len(set(batch.tolist())) == 128
    assert batch.max() > 10**8


def sizes():
    counts = st.integers(1, 3)
    return st.tuples(st.integers(1, 9), st.integers(1, 3), counts, st.integers(0, 8)).map(
        lambda x: (x[0] * x[2] * x[1] + x[3] % x[1] * x[2], x[1], x[2])
    )


@given(sizes(), st.booleans(), st.booleans())
def test_every_example_once_a_pass_over_all_shards(sizes, shuffle, drop):
    n, batch_size, count = sizes
    options = {"shuffle": shuffle, "drop_remainder": drop}
    shards = [
        ody.HostDataset(np.arange(n), batch_size, shard=(i, count), **options) for i in range(count)
    ]
    (steps,) = {x.steps_per_pass for x in shards}
    found = [reads(x.reader(SEED, 0), 2 * steps) for x in shards]
    ends = {tuple(x is None for x in one) for one in found}
    assert len(ends) == 1
    for index in range(2):
        start = index * (steps + 1)
        seen = [int(x) for one in found for x in examples(one[start : start + steps])]
        assert (
            len(set(seen))
            == len(seen)
            == (n // (batch_size * count) * batch_size * count if drop else n)
        )
    whole = ody.HostDataset(np.arange(n), batch_size * count, shard=(0, 1), **options)
    assert whole.signature() == shards[0].signature()
    together = [np.concatenate(x) for x in zip(*(one[:steps] for one in found), strict=True)]
    assert_equal(together, reads(whole.reader(SEED, 0), steps))


@pytest.mark.parametrize("shuffle", [False, True])
def test_reading_goes_on_at_any_step(shuffle):
    data = {"x": np.arange(22).reshape(11, 2), "y": np.arange(11, dtype=np.int8)}
    whole = check_goes_on(lambda: ody.HostDataset(data, 4, shuffle=shuffle), 10)
    assert [None if x is None else len(x["y"]) for x in whole[:5]] == [4, 4, 3, None, 4]
    orders = [examples(whole[i : i + 3]) for i in (0, 4)]
    assert np.array_equal(*orders) != shuffle
    for batch in filter(None, whole):
        np.testing.assert_array_equal(batch["x"][:, 0], 2 * batch["y"].astype(int))


def test_seeds_and_passes_have_orders_of_their_own():
    data = ody.HostDataset(np.arange(10_000), 10_000, shuffle=True)
    first, _, second = reads(data.reader(1, 0), 2)
    (other,) = reads(data.reader(2, 0), 1)
    orders = [first, second, other]
    for a, b in itertools.combinations(orders, 2):
        assert (a == b).sum() < 10  # of the 1 that chance has on average
    assert all(not np.array_equal(x, np.sort(x)) for x in orders)


class Rising:
    """An array that is read in pieces, as h5py's is: by a slice or by rising indices."""

    def __init__(self, x):
        self.x, self.shape, self.dtype = x, x.shape, x.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice) or (np.diff(rows) > 0).all()
        return self.x[rows]


def on_disk(x, path):
    np.save(path, x)
    return np.load(path, mmap_mode="r")


def in_tensorstore(x, path):
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(path)}}
    store = tensorstore.open(spec, create=True, dtype=x.dtype, shape=x.shape).result()
    store[...] = x
    return store


KINDS = {
    "in memory": lambda x, path: x,
    "memory map": on_disk,
    "Fortran's order": lambda x, path: np.asfortranarray(x),
    "rising": lambda x, path: Rising(x),
    "TensorStore": in_tensorstore,
    "JAX": lambda x, path: jnp.asarray(x),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_arrays_of_any_kind_give_the_same_batches(kind, shuffle, tmp_path):
    x = np.arange(60, dtype=np.int32).reshape(10, 6)
    data = ody.HostDataset({"x": KINDS[kind](x, tmp_path / "x.npy")}, 4, shuffle=shuffle)
    same = ody.HostDataset({"x": x}, 4, shuffle=shuffle)
    assert_equal(reads(data.reader(SEED, 0), 6), reads(same.reader(SEED, 0), 6))
    assert data.spec == same.spec == {"x": jax.ShapeDtypeStruct((4, 6), np.int32)}
    assert data.signature() == same.signature()


@pytest.mark.parametrize("threads", [1, 3])
def test_large_batches_are_gathered_by_threads(threads):
    x = np.arange(40 * _SPLIT // 16, dtype=np.uint16).reshape(40, -1)
    data = ody.HostDataset(x, 20, shuffle=True, threads=threads)
    reader = data.reader(SEED, 0)
    order = permute(np.arange(20), 40, SEED)
    np.testing.assert_array_equal(reader.read(), x[order])
    reader.close()


def test_what_is_in_order_is_not_copied():
    x = np.arange(10, dtype=np.float32)
    batch = ody.HostDataset(x, 4).reader(0, 1).read()
    assert np.shares_memory(batch, x)


def test_wide_numbers_become_what_jax_keeps_of_them():
    data = ody.HostDataset({"i": np.arange(3), "f": np.ones(3)}, 3)
    batch = data.reader(0, 0).read()
    assert (batch["i"].dtype, batch["f"].dtype) == (np.int32, np.float32)
    assert {x.dtype.name for x in data.spec.values()} == {"int32", "float32"}
    data = ody.HostDataset({"i": np.array([1, 2, 2**40])}, 2)
    reader = data.reader(0, 0)
    reader.read()
    with pytest.raises(ValueError, match=r"data\['i'\] holds 1099511627776, as int64"):
        reader.read()


def test_a_fingerprint_tells_contents_apart():
    of = lambda x: ody.HostDataset(x, 1).signature()["fingerprint"]
    x = np.arange(6, dtype=np.float32)
    assert of(x) == of(x.copy()) != of(x + 1)
    assert of({"a": x}) != of({"a": x.view(np.int32)})


def test_a_fingerprint_of_a_large_set_reads_few_rows():
    class Large:
        shape, dtype = (10**6, 1_000), np.dtype(np.uint8)
        rows = 0

        def __getitem__(self, rows):
            self.rows += len(rows)
            return np.ones((len(rows), 1_000), np.uint8)

    large = Large()
    assert ody.HostDataset(large, 1).signature() == ody.HostDataset(large, 1).signature()
    assert 0 < large.rows * 1_000 <= 2 * WHOLE


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.zeros(5), {"batch_size": 6}, "from 1 to the number of examples, 5; got 6"),
        (np.zeros(5), {"batch_size": True}, "got True"),
        (np.zeros(5), {"shard": (0, 3)}, "over the 3 processes, 1; got 2"),
        (np.zeros(5), {"shard": (2, 2)}, r"0 <= index < count.*got \(2, 2\)"),
        (np.zeros(5), {"shard": 2}, "shard must be .*got 2"),
        (np.zeros(5), {"shuffle": "no"}, "shuffle must be True or False, got 'no'"),
        (np.zeros(5), {"drop_remainder": 1}, "drop_remainder must be True or False, got 1"),
        (np.zeros(5), {"threads": 0}, "threads must be an integer of at least 1, got 0"),
        (
            np.zeros(11),
            {"shard": (0, 2)},
            "last batch of 3 examples can't be shared equally by 2 processes: pass "
            "drop_remainder=True, or leave out 1 of the 11",
        ),
        ({"x": np.zeros(5), "y": np.zeros(4)}, {}, "differ in their number of examples"),
        ({"x": np.float32(3)}, {}, r"must hold arrays \[examples, ...\]"),
        ({"x": [1, 2, 3, 4, 5]}, {}, r"got shapes \{\"\['x'\]\[0\]\": \(\), .*\}, and 2 more"),
        ({"t": np.array(["a"] * 5)}, {}, r"data\['t'\].* dtype <U1: encode text"),
        ({"t": Rising(np.array(["a"] * 5))}, {}, r"data\['t'\].* dtype <U1: encode text"),
        ({"t": None, "x": np.zeros(5)}, {}, r"data\['t'\] is None"),
    ],
)
def test_bad_arguments_are_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        ody.HostDataset(data, **{"batch_size": 2, **options})


def test_shows_its_arrays_and_options():
    data = ody.HostDataset({"x": np.zeros((5, 2))}, 2, shuffle=True, drop_remainder=True)
    text = "HostDataset({'x': float64[5, 2]}, batch_size=2, shuffle=True, drop_remainder=True)"
    assert repr(data) == text
    assert (len(data), data.steps_per_pass, data.remainder, data.shard) == (5, 2, 0, (0, 1))
    assert math.prod(data.spec["x"].shape) == 4
