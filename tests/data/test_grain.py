"""Grain's data sets and loaders as sources; packing of documents through its own transforms."""

import json

import grain
import numpy as np
import pytest
from absl import flags

import odyssey_jax as ody
from odyssey_jax.data import as_source
from tests.data.laws import SEED, assert_equal, check_goes_on, examples, reads

EXAMPLES = 22


def example(k):
    return {"x": np.full(3, k, np.float32), "y": np.int64(k)}


def mapped(**batch):
    return grain.MapDataset.range(EXAMPLES).shuffle(seed=3).map(example).batch(4, **batch)


def iterated(workers=0):
    data = grain.MapDataset.range(EXAMPLES).shuffle(seed=3).repeat(2).map(example)
    data = data.to_iter_dataset()
    options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
    data = data.mp_prefetch(options) if workers else data
    return data.batch(4, drop_remainder=True)


class Example(grain.transforms.Map):
    def map(self, element):
        return example(element)


def loader():
    sampler = grain.samplers.IndexSampler(
        EXAMPLES, shuffle=True, seed=3, num_epochs=2, shard_options=grain.sharding.NoSharding()
    )
    operations = [Example(), grain.transforms.Batch(4, drop_remainder=True)]
    return grain.DataLoader(
        data_source=range(EXAMPLES), sampler=sampler, operations=operations, worker_count=0
    )


def test_a_map_dataset_is_read_by_index_and_shuffled_anew_for_every_pass():
    source = as_source("train", mapped())
    assert (source.resumes, source.steps_per_pass, source.remainder) == ("by step", 6, 2)
    found = check_goes_on(lambda: as_source("train", mapped()), 14)
    first, second = examples(found[:6]), examples(found[7:13])
    assert found[6] is found[13] is None
    for one in (first, second):
        assert sorted(x[0] for x in one) == list(range(EXAMPLES))
    assert not np.array_equal(first, second)
    assert source.spec["y"].dtype == np.int32


def test_a_repeated_map_dataset_has_no_end():
    source = as_source("train", mapped(drop_remainder=True).repeat())
    assert (source.steps_per_pass, source.remainder, source.full_batches) == (None, 0, 0)
    assert None not in check_goes_on(lambda: source, 12, at=[0, 5, 11])


@pytest.mark.parametrize("make", [iterated, loader])
def test_an_iterator_goes_on_by_its_state(make):
    source = as_source("train", make())
    assert (source.resumes, source.steps_per_pass) == ("by state", None)
    found = check_goes_on(lambda: as_source("train", make()), 25)
    assert found[11] is found[23] is None
    numbers = [x[0] for x in examples(found[:11])]
    assert np.bincount(np.int64(numbers), minlength=EXAMPLES).tolist() == [2] * EXAMPLES


DOCUMENTS = [{"tokens": np.arange(1, n + 1, dtype=np.int32)} for n in (3, 7, 2, 5, 8, 1, 6, 4)]
LENGTH = 8


def packed(kind):
    documents = grain.MapDataset.source(DOCUMENTS).shuffle(seed=0).to_iter_dataset()
    options = {} if kind == "ConcatThenSplit" else {"num_packing_bins": 3}
    pack = getattr(grain.experimental, f"{kind}PackIterDataset", None)
    pack = pack or grain.experimental.ConcatThenSplitIterDataset
    return pack(documents, length_struct={"tokens": LENGTH}, **options).batch(2)


@pytest.mark.parametrize("kind", ["ConcatThenSplit", "FirstFit", "BestFit"])
def test_documents_are_packed_and_packing_goes_on_at_any_step(kind):
    make = lambda: as_source("train", packed(kind))
    steps = sum(1 for _ in packed(kind))
    found = check_goes_on(make, 2 * steps)
    seen = {}
    for batch in found[:steps]:
        for row in range(len(batch["tokens"])):
            tokens, segments, places = (
                batch[name][row] for name in ("tokens", "tokens_segment_ids", "tokens_positions")
            )
            assert (segments[tokens > 0] > 0).all()
            for token, place in zip(tokens[tokens > 0], places[tokens > 0], strict=True):
                if kind != "ConcatThenSplit":  # which splits documents, and counts from 0 again
                    assert token == place + 1
                seen[int(token)] = seen.get(int(token), 0) + 1
    longer = lambda k: sum(len(x["tokens"]) >= k for x in DOCUMENTS)
    assert seen == {k: longer(k) for k in range(1, 9)}


class Opaque(list):
    """A source as most are: what it prints has an address, which is another in each process."""

    __repr__ = object.__repr__


def opaque_loader():
    sampler = grain.samplers.IndexSampler(
        EXAMPLES, shuffle=True, seed=3, num_epochs=1, shard_options=grain.sharding.NoSharding()
    )
    batched = grain.transforms.Batch(4, drop_remainder=True)
    source = Opaque(example(k) for k in range(EXAMPLES))
    return grain.DataLoader(data_source=source, sampler=sampler, operations=[batched])


def test_a_loader_goes_on_in_another_process():
    """Grain refuses a state by what source and sampler print."""
    kept = []  # or an address might be given again
    check_goes_on(lambda: kept.append(as_source("train", opaque_loader())) or kept[-1], 11)


def test_a_state_of_other_data_says_whose_it_is():
    reader = as_source("train", loader()).reader(SEED, 0)
    reader.read()
    other = as_source("train", opaque_loader())
    said = r"Sampler in checkpoint does not match(.|\n)*raised where train, <Grain DataLoader: "
    with pytest.raises(ValueError, match=said):
        other.reader(SEED, 1, reader.state())


def test_what_has_no_batches_is_refused():
    with pytest.raises(
        ValueError, match=r"train is .*\(7\) and no array \[batch, ...\].*batch\(32"
    ):
        as_source("train", grain.MapDataset.source([5, 6, 7]))
    with pytest.raises(ValueError, match=r"train\['t'\] must be .*dtype <U1: encode text"):
        as_source("train", grain.MapDataset.source([{"t": "a"}] * 4).batch(2))
    with pytest.raises(ValueError, match="Grain MapDataset without a batch: its length is 0"):
        as_source("train", grain.MapDataset.source([]))
    kept = grain.MapDataset.source([np.ones(2), np.zeros(2)]).filter(lambda x: x[0] > 0)
    reader = as_source("train", kept.repeat()).reader(SEED, 0)
    with pytest.raises(ValueError, match="train gives None in place of the batch of step 1"):
        reads(reader, 2)
    with pytest.raises(ValueError, match="batch_size= is for arrays, and train is a"):
        as_source("train", mapped(), batch_size=4)


def test_ragged_documents_are_padded_in_the_pipeline():
    batches = grain.MapDataset.source([[3, 1], [4]]).map(
        lambda sizes: ody.pad_to({"tokens": [np.arange(n) + 1 for n in sizes]}, (2, 4))
    )
    (batch, _) = reads(as_source("train", batches).reader(SEED, 0), 2)
    assert batch["tokens"].tolist() == [[1, 2, 3, 0], [1, 0, 0, 0]]
    assert batch["mask"].sum() == 4


@pytest.mark.slow
def test_worker_processes():
    flags.FLAGS.mark_as_parsed()  # which Grain's workers ask for, and absl.app.run does
    expected = reads(as_source("train", iterated()).reader(SEED, 0), 5)
    source = as_source("train", iterated(1))
    reader = source.reader(SEED, 0)
    assert_equal(reads(reader, 3), expected[:3])
    again = source.reader(SEED, 3, json.loads(json.dumps(reader.state())))
    reader.close()
    assert_equal(reads(again, 2), expected[3:])
    again.close()
