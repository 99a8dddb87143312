"""Functions, generators, iterables, lists and iterators as sources; what is refused, and why."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

import odyssey_jax as ody
from odyssey_jax.data import HostSource, IndexedSource, as_source, transform_of
from tests.data.laws import SEED, check_goes_on, examples, reads


def batch(k, size=4):
    return {"x": np.full((size, 2), k, np.float32), "y": np.arange(size, dtype=np.int32) + k}


def batches(n=5, start=0):
    for k in range(start, start + n):
        yield batch(k)


def of_pass(index):
    yield from batches(start=10 * index)


class Loader:
    """An iterable of batches, with a length and a smaller last batch."""

    def __init__(self, n=5, last=4):
        self.n, self.last = n, last

    def __len__(self):
        return self.n

    def __iter__(self):
        yield from batches(self.n - 1)
        yield batch(self.n - 1, self.last)


class Endless:
    def __init__(self):
        self.step = 0

    def __iter__(self):
        while True:
            yield batch(self.step)
            self.step += 1


class Counted:
    """What torchdata's nodes and others have: an iterator's state in the loader."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < 5:
            self.at += 1
            yield batch(self.at - 1)
        self.at = 0

    def state_dict(self):
        return {"at": self.at, "tag": (np.arange(2), b"\0\xff", {1: np.int64(2)})}

    def load_state_dict(self, state):
        array, raw, table = state["tag"]
        assert (array.tolist(), raw, table) == ([0, 1], b"\0\xff", {1: 2})
        self.at = state["at"]


KINDS = {
    # name: (what makes it, resumes, steps_per_pass)
    "function of the step": (lambda: batch, "by step", None),
    "partial": (lambda: functools.partial(batch, size=3), "by step", None),
    "list": (lambda: list(batches()), "by step", 5),
    "generator function": (lambda: batches, "by skipping", None),
    "of the pass": (lambda: of_pass, "by skipping", None),
    "function that makes an iterable": (lambda: lambda: list(batches()), "by skipping", None),
    "iterable": (Loader, "by skipping", 5),
    "endless": (Endless, "by skipping", None),
    "with a state": (Counted, "by state", None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_reading_goes_on_at_any_step(kind):
    make, resumes, length = KINDS[kind]
    source = as_source("train", make())
    assert (source.resumes, source.steps_per_pass, source.remainder) == (resumes, length, 0)
    assert source.full_batches == (length or 0)
    whole = check_goes_on(lambda: as_source("train", make()), 13)
    if kind in {"function of the step", "partial", "endless"}:
        assert None not in whole
        assert [x[0] for x in examples(whole)[:: source.batch_size]] == list(range(13))
    else:
        assert whole[5] is whole[11] is None


def test_passes_before_are_left_out_where_a_pass_is_a_function_of_its_index():
    begun = []

    def of_index(index):
        begun.append(index)
        yield from of_pass(index)

    source = ody.stream(of_index, steps_per_pass=5)
    begun.clear()
    check_goes_on(lambda: source, 12, at=[0, 3, 5, 11])
    begun.clear()
    assert source.reader(SEED, 13).read()["y"][0] == 23
    assert begun == [2]


def test_the_first_batch_of_what_is_random_is_handed_out_again():
    rng = np.random.default_rng(0)
    expected = np.random.default_rng(0).normal(size=(4, 2)).tolist()

    def noise():
        for _ in range(2):
            yield rng.normal(size=(2,))

    reader = as_source("train", noise).reader(SEED, 0)
    found = reads(reader, 4)
    np.testing.assert_allclose([x for x in found if x is not None], expected, rtol=1e-6)


def test_an_iterator_is_read_once():
    source = as_source("train", batches())
    assert source.resumes == "never"
    reader = source.reader(SEED, 0)
    assert [x["y"][0] for x in reads(reader, 5)] == [0, 1, 2, 3, 4]
    assert reader.read() is None
    with pytest.raises(ValueError, match="train is an iterator.*pass 1 .*lambda: batches"):
        reader.read()
    with pytest.raises(ValueError, match="can't be read from step 3 on: an iterator can be read"):
        source.reader(SEED, 3)


def test_a_generator_is_closed():
    closed = []

    def opened():
        try:
            yield from batches()
        finally:
            closed.append(True)

    reader = as_source("train", opened).reader(SEED, 0)
    reader.read()
    reader.close()
    assert closed == [True]


def test_a_last_smaller_batch():
    source = ody.stream(Loader(last=3), remainder=3)
    assert (source.full_batches, source.remainder, source.steps_per_pass) == (4, 3, 5)
    found = check_goes_on(lambda: ody.stream(Loader(last=3), remainder=3), 7)
    assert [None if x is None else len(x["y"]) for x in found[:7]] == [4, 4, 4, 4, 3, None, 4]
    assert as_source("train", [*batches(), batch(5, 1)]).remainder == 1
    assert as_source("train", [batch(0, 3)]).remainder == 0


def test_options_of_a_stream():
    transform = lambda batch, key: batch
    source = ody.stream(batch, steps_per_pass=3, transform=transform)
    assert transform_of(source) is transform
    assert source.steps_per_pass == 3
    assert [x is None for x in reads(source.reader(0, 2), 4)] == [False, True, False, False, False]
    assert transform_of(as_source("train", source)) is transform
    assert transform_of(ody.stream(source)) is transform
    assert transform_of(as_source("train", batch)) is None
    with pytest.raises(ValueError, match="steps_per_pass=4, but the data has 5 batches in a pass"):
        ody.stream(Loader(), steps_per_pass=4)
    with pytest.raises(ValueError, match="remainder=4 must be below the 4 examples of a batch"):
        ody.stream(Loader(), remainder=4)
    with pytest.raises(ValueError, match="remainder=2, but the data has 1 examples in its last"):
        ody.stream([batch(0), batch(1, 1)], remainder=2)
    for data in ({"x": np.ones(4)}, np.ones(4), (np.ones(4), np.ones(4))):
        with pytest.raises(TypeError, match="which has no batches: HostDataset"):
            ody.stream(data)
    assert ody.stream([np.ones(4), np.ones(4)]).batch_size == 4
    with pytest.raises(TypeError, match=r"ArrayDataset\(float32\[4\], batch_size=2\) is a source"):
        ody.stream(ody.ArrayDataset(np.ones(4), 2))


def test_sources_are_taken_as_they_are():
    for source in (ody.ArrayDataset(np.ones(4), 2), ody.HostDataset(np.ones(4), 2)):
        assert as_source("train", source) is source


def test_arrays_need_a_batch_size(tmp_path):
    x, y = np.arange(8.0), np.arange(8)
    for data in ({"x": x, "y": y}, (x, y), [x, y], x, {"a": {"b": jnp.arange(3)}}):
        source = as_source("train", data, batch_size=3, shuffle=True)
        assert isinstance(source, ody.ArrayDataset)
        assert (source.batch_size, source.shuffle) == (3, True)
        with pytest.raises(ValueError, match="train is of arrays: .* batch_size=32"):
            as_source("train", data)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(as_source("train", {"x": mapped, "y": y}, batch_size=3), ody.HostDataset)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    with np.load(tmp_path / "data.npz") as saved:
        assert as_source("train", saved, batch_size=4).data["y"].tolist() == y.tolist()
    with pytest.raises(ValueError, match=r"train: data\['t'\] must be .* dtype <U1"):
        as_source("train", {"x": x, "t": np.array(list("abcdefgh"))}, batch_size=2)


def test_columns_of_a_table(tmp_path):
    table = pandas.DataFrame({"x": np.arange(4.0), "y": np.arange(4)}, index=[7, 5, 3, 1])
    columns = {name: table[name] for name in table}
    host = ody.HostDataset(columns, 3).reader(0, 0).read()
    assert host["y"].tolist() == as_source("t", columns, batch_size=3).batch(None, 0)["y"].tolist()
    with pytest.raises(TypeError, match=r"train is a DataFrame: .*\[name\].to_numpy\(\)"):
        as_source("train", table)


class Short(Loader):
    def __len__(self):
        return 7


class Long(Loader):
    def __len__(self):
        return 3


class Emptied(Loader):
    """An iterable that can be read once, as a zip or a map in a class of one's own."""

    __len__ = None

    def __init__(self):
        self.made = batches()

    def __iter__(self):
        return self.made


def test_a_pass_that_ends_early_or_late_is_an_error():
    with pytest.raises(ValueError, match="train ended at batch 5 of the pass of index 0, .* 7"):
        reads(as_source("train", Short()).reader(SEED, 0), 6)
    with pytest.raises(ValueError, match="train has more than the 3 batches of its length"):
        reads(as_source("train", Long()).reader(SEED, 0), 5)
    with pytest.raises(ValueError, match="train has no batch in the pass of index 1: .* anew"):
        reads(as_source("train", Emptied()).reader(SEED, 0), 6)


class Indexed:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return batch(0, 1)


TEXT = {"x": np.ones((4, 2)), "text": ["a", "b", "c", "d"]}


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (lambda step: TEXT, ValueError, r"train\['text'\]\[0\] must be .* dtype <U1: encode text"),
        (lambda step: {"x": None}, ValueError, r"train\['x'\] is None: leave it out"),
        (lambda step: np.array([b"a"], object), ValueError, "train .* dtype object: encode text"),
        (lambda step: {"x": np.array([None])}, ValueError, r"train\['x'\] .* dtype object: stack"),
        (
            lambda step: (np.ones(3), 1.5),
            ValueError,
            r"train\[1\] is .*1.5.* gives batches, not ex",
        ),
        (lambda step: {"x": np.ones(3), "y": np.ones(2)}, ValueError, "differ in their number"),
        (lambda step: {}, ValueError, r"train must hold arrays \[examples, ...\]"),
        (lambda step: None, ValueError, "train gives None in place of the batch of step 0"),
        (lambda step: iter([]), ValueError, "train must be an array of numbers or bools"),
        (lambda step: np.array([2**40]), ValueError, "train holds 1099511627776, as int64"),
        (lambda: None, TypeError, "takes no argument, so it must give an iterable.*NoneType"),
        (lambda a, b: None, TypeError, "must take the step, or nothing .* takes 2 arguments"),
        (list, ValueError, "generator function without a batch"),
        ([], ValueError, "train is an empty list"),
        (lambda: iter([None]), ValueError, "train is None"),
        ("abc", TypeError, "train must be arrays .* any iterable of batches; got a str: 'abc'"),
        (Path("x.npy"), TypeError, r"train must be arrays .*PosixPath.* as in np.load\(path"),
        (
            Indexed(),
            TypeError,
            r"train must .* grain.MapDataset.source\(examples\).batch",
        ),
        ({"a": Loader()}, TypeError, "a Loader under 'a', and no arrays: give one"),
        (
            {"a": ody.HostDataset(np.ones(4), 2)},
            TypeError,
            "a HostDataset under 'a', and no",
        ),
        (None, TypeError, "train must be arrays .*; got a NoneType: None"),
        (7, TypeError, "train must be arrays .*; got a int: 7"),
    ],
)
def test_what_is_no_data_is_refused(value, kind, message):
    with pytest.raises(kind, match=message):
        as_source("train", value)


def test_a_list_of_batches_takes_no_batch_size():
    with pytest.raises(ValueError, match="batch_size= is for arrays, and train is a list"):
        as_source("train", list(batches()), batch_size=4)


@pytest.mark.parametrize("transform", ["flip", lambda batch: batch, lambda a, b, c: a])
def test_what_is_no_transform(transform):
    makes = (ody.ArrayDataset, ody.HostDataset, lambda x, size, **how: ody.stream([x], **how))
    for make in makes:
        with pytest.raises(TypeError, match=r"transform must be a function \(batch, key\)"):
            make(np.ones(4), 2, transform=transform)
    ody.HostDataset(np.ones(4), 2, transform=functools.partial(lambda a, b, c: b, 1))


def test_options_for_arrays_are_refused_elsewhere():
    for value in (batch, ody.ArrayDataset(np.ones(4), 2)):
        with pytest.raises(ValueError, match="batch_size= is for arrays, and valid is a"):
            as_source("valid", value, batch_size=4)
        with pytest.raises(ValueError, match="shuffle= is for arrays"):
            as_source("valid", value, shuffle=True)


class Mapped(dict):
    """A mapping that is no pytree, as the batches of transformers' tokenizers."""


def test_a_mapping_becomes_a_dict():
    source = as_source("train", lambda step: (Mapped(x=np.ones(3, np.float32)),))
    assert source.spec == ({"x": jax.ShapeDtypeStruct((3,), np.float32)},)
    assert isinstance(source.reader(0, 0).read()[0], dict)


class Tensor:
    """What tf.data gives where it is not asked for NumPy's."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x


class TfDataset:
    """The protocol of `tf.data.Dataset`: its wheel is larger than all others together."""

    def __init__(self, length):
        self.length = length

    def cardinality(self):
        return Tensor(np.int64(self.length)).x

    def __iter__(self):
        raise AssertionError("gives tensors, of which each is copied")

    def as_numpy_iterator(self):
        return batches(5)


@pytest.mark.parametrize(("length", "known"), [(5, 5), (-1, None), (-2, None)])
def test_tf_data(length, known):
    source = as_source("train", TfDataset(length))
    assert (source.steps_per_pass, source.resumes) == (known, "by skipping")
    check_goes_on(lambda: as_source("train", TfDataset(length)), 12, at=[0, 4, 5, 6, 12])


def test_sources_are_of_one_kind():
    for source in (as_source("a", batch), as_source("a", Loader()), as_source("a", Counted())):
        assert isinstance(source, HostSource)
        assert not isinstance(source, IndexedSource)
        assert "batches a pass" in repr(source)
    assert math.isclose(as_source("a", batch).reader(0, 7).read()["x"][0, 0], 7)


def test_a_state_that_json_lacks_is_refused_by_its_path():
    class Odd(Counted):
        def state_dict(self):
            return {"rng": [np.random.default_rng(0)]}

        def load_state_dict(self, state):
            pass

    reader = as_source("train", Odd()).reader(0, 0)
    with pytest.raises(TypeError, match=r"the state of train\['rng'\]\[0\] is a Generator"):
        reader.state()
