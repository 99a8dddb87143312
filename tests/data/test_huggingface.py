"""Hugging Face's data sets as sources."""

from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pytest

from odyssey_jax.data import as_source
from tests.data.laws import SEED, check_goes_on, examples

EXAMPLES = 22
COLUMNS = {
    "x": np.arange(2.0 * EXAMPLES).reshape(EXAMPLES, 2).astype(np.float32),
    "y": np.arange(EXAMPLES),
}


def table():
    return datasets.Dataset.from_dict(COLUMNS)


@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_of_a_data_set(shuffle):
    make = lambda: as_source("train", table(), batch_size=4, shuffle=shuffle)
    source = make()
    assert (source.resumes, source.steps_per_pass, source.remainder) == ("by step", 6, 2)
    found = check_goes_on(make, 13, at=[0, 1, 5, 6, 7, 12, 13])
    rows = examples(found[:6])
    assert sorted(x[0] for x in rows) == COLUMNS["x"][:, 0].tolist()
    assert np.array_equal(rows, COLUMNS["x"]) != shuffle
    assert source.signature()["fingerprint"] == make().signature()["fingerprint"]
    other = table().map(lambda row: {"y": row["y"] + 1})
    other = as_source("train", other, batch_size=4, shuffle=shuffle)
    assert other.signature()["fingerprint"] != source.signature()["fingerprint"]
    assert source.spec["y"].dtype == np.int32


def test_a_transform_of_the_data_sets_own_stays():
    own = table().with_transform(lambda rows: {"z": np.asarray(rows["y"], np.int32) * 2})
    source = as_source("train", own, batch_size=4)
    assert source.reader(SEED, 1).read()["z"].tolist() == [8, 10, 12, 14]


def test_what_is_no_array_is_refused():
    texts = table().add_column("text", [str(i) for i in range(EXAMPLES)])
    with pytest.raises(ValueError, match=r"data\['text'\] must be .* <U1: encode .*remove_columns"):
        as_source("train", texts, batch_size=4)
    assert as_source("train", texts.remove_columns(["text"]), batch_size=4).batch_size == 4
    with pytest.raises(ValueError, match="train is a Hugging Face Dataset: .*batch_size=32"):
        as_source("train", table())
    with pytest.raises(ValueError, match="has no example"):
        as_source("train", table().select([]), batch_size=4)
    with pytest.raises(ValueError, match=r"train\['x'\]\[0\]\[0\] is .* no array .*with_format"):
        as_source("train", table().to_iterable_dataset().batch(4))


def test_splits_are_not_trained_on_together():
    with pytest.raises(TypeError, match=r"dict with a Dataset under 'a', .*train\['a'\]"):
        as_source("train", datasets.DatasetDict({"a": table()}), batch_size=4)


def test_a_stream_is_read_in_threads():
    """To copy a data set copies a process-wide cache, which has an entry for each thread."""
    sources = [as_source("train", streamed(False)) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            found = pool.map(lambda source: source.reader(SEED, 0).read()["y"][0], sources * 4)
            assert list(found) == [0] * 8


def streamed(shuffle):
    data = table().with_format("numpy").to_iterable_dataset(num_shards=3)
    return (data.shuffle(seed=3, buffer_size=8) if shuffle else data).batch(4)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stream_goes_on(shuffle):
    """By its state; shuffled by skipping, since the state lacks what the shuffle buffer holds."""
    make = lambda: as_source("train", streamed(shuffle))
    source = make()
    assert source.resumes == ("by skipping" if shuffle else "by state")
    found = check_goes_on(make, 13, at=[0, 1, 4, 5, 6, 7, 11, 13])
    first, second = examples(found[:6]), examples(found[7:13])
    for one in (first, second):
        assert sorted(x[0] for x in one) == COLUMNS["x"][:, 0].tolist()
    assert np.array_equal(first, second) != shuffle
    if not shuffle:  # two readers of one data set keep a state each
        one, other = source.reader(SEED, 0), source.reader(SEED, 0)
        one.read(), one.read(), other.read()
        assert source.reader(SEED, 2, one.state()).read()["y"].tolist() == [8, 9, 10, 11]
