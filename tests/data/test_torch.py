"""torch's and torchdata's loaders as sources."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler as StatefulSampler

import odyssey_jax as ody
from odyssey_jax.data import as_source
from tests.data.laws import SEED, assert_equal, check_goes_on, examples, reads

EXAMPLES = 22

# torchdata calls a function that torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


class Examples(Dataset):
    def __len__(self):
        return EXAMPLES

    def __getitem__(self, k):
        return {"x": torch.full((3,), float(k)), "y": k}


class Streamed(IterableDataset):
    def __iter__(self):
        return (Examples()[k] for k in range(EXAMPLES))


def seeded():
    return torch.Generator().manual_seed(3)


def weighted(generator=None):
    return WeightedRandomSampler(torch.ones(EXAMPLES), EXAMPLES, generator=generator)


def distributed():
    return DistributedSampler(Examples(), num_replicas=2, rank=1, seed=5)


LOADERS = {
    "in order": lambda: DataLoader(Examples(), 4),
    "shuffled": lambda: DataLoader(Examples(), 4, shuffle=True, generator=seeded()),
    "sampler": lambda: DataLoader(Examples(), 4, sampler=weighted(seeded())),
    "distributed": lambda: DataLoader(Examples(), 4, sampler=distributed()),
    "stream": lambda: DataLoader(Streamed(), 4),
    "drop_last": lambda: DataLoader(Examples(), 4, drop_last=True),
    "stateful": lambda: StatefulDataLoader(Examples(), 4, shuffle=True, generator=seeded()),
    "stateful replacement": lambda: StatefulDataLoader(
        Examples(), 4, sampler=StatefulSampler(Examples(), replacement=True, generator=seeded())
    ),
    # An order that torchdata draws again, and does not save.
    "stateful sampler": lambda: StatefulDataLoader(Examples(), 4, sampler=weighted(seeded())),
    "stateful stream": lambda: StatefulDataLoader(Streamed(), 4),
}
LENGTHS = {"distributed": (3, 3), "stream": (None, 0), "drop_last": (5, 0)}
LENGTHS["stateful stream"] = (None, 0)


@pytest.mark.parametrize("kind", LOADERS)
def test_reading_goes_on_at_any_step(kind):
    make = lambda: as_source("train", LOADERS[kind]())
    source = make()
    assert source.resumes == ("by state" if "stateful" in kind else "by skipping")
    assert (source.steps_per_pass, source.remainder) == LENGTHS.get(kind, (6, 2))
    found = check_goes_on(make, 13)
    end = found.index(None)
    first, second = (np.ravel(examples(x)) for x in (found[:end], found[end + 1 : 2 * end + 1]))
    if kind not in {
        "sampler",
        "stateful sampler",
        "distributed",
        "drop_last",
        "stateful replacement",
    }:
        assert sorted(first[::3]) == sorted(second[::3]) == list(range(EXAMPLES))
    same = kind in {"in order", "stream", "drop_last", "stateful stream"}
    assert np.array_equal(first, second) == same
    again = reads(source.reader(SEED, 0), 6)  # the loader has been read, and begins anew
    np.testing.assert_array_equal(examples(again), examples(found[: len(again)]))


def test_a_state_goes_on_in_another_order_of_torchs_own():
    """A StatefulDataLoader without a seed has an order of its own, which its state knows."""
    make = lambda: as_source("train", StatefulDataLoader(Examples(), 4, shuffle=True))
    check_goes_on(make, 13, at=[1, 4, 6, 7, 11])


@pytest.mark.parametrize("sampler", [None, weighted()])
def test_an_order_that_cannot_be_read_again_is_refused_in_the_middle(sampler):
    loader = DataLoader(Examples(), 4, shuffle=sampler is None, sampler=sampler)
    source = as_source("train", loader)
    assert source.resumes == "never"
    assert len(examples(reads(source.reader(SEED, 0), 6))) == EXAMPLES
    with pytest.raises(ValueError, match=r"train can't be read from step 2 on: .*manual_seed\(0\)"):
        source.reader(SEED, 2)


@pytest.mark.parametrize("kind", ["shuffled", "stateful"])
def test_loaders_may_have_one_generator(kind):
    """As torch's own examples have it; what reads ahead may not change the order of another."""
    expected = reads(as_source("train", LOADERS[kind]()).reader(SEED, 0), 13)
    generator, maker = seeded(), type(LOADERS[kind]())
    train, valid = (maker(Examples(), 4, shuffle=x, generator=generator) for x in (True, False))
    reader = as_source("train", train).reader(SEED, 0)
    found = reads(reader, 3)
    as_source("valid", valid).reader(SEED, 0).read()
    assert_equal(found + [reader.read() for _ in expected[3:]], expected)


@pytest.mark.parametrize("kind", ["shuffled", "distributed", "stateful", "iterator"])
def test_what_is_read_from_one_place_is_not_trained_and_validated_on(kind):
    loader = iter([np.ones(4)] * 9) if kind == "iterator" else LOADERS[kind]()
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: w)
    how = {"epochs": 1, "learning_rate": 0.1, "writers": [], "steps_per_epoch": 2, "valid_steps": 1}
    for valid in (loader, {"a": lambda step: np.ones(4), "b": ody.stream(loader)}):
        if kind != "iterator" or valid is loader:
            with pytest.raises(ValueError, match="train and valid are one .* make another for val"):
                ody.fit(task, optax.sgd, loader, valid, **how)


def test_passes_before_are_left_out_where_there_is_an_order():
    read = []

    class Watched(Examples):
        def __getitem__(self, k):
            read.append(k)
            return super().__getitem__(k)

    source = as_source("train", DataLoader(Watched(), 4))
    read.clear()
    source.reader(SEED, 13).read()
    assert read == list(range(8))


def test_tensors_become_arrays_without_a_copy():
    x = torch.arange(8.0).reshape(4, 2)
    half, wide = x.to(torch.bfloat16), torch.arange(4)
    source = as_source("train", lambda step: (x, half, wide, x.clone().requires_grad_()))
    a, b, c, d = source.reader(SEED, 0).read()
    assert a.dtype == d.dtype == np.float32
    assert np.shares_memory(a, x.numpy())
    assert b.dtype == jnp.bfloat16
    assert np.shares_memory(b, half.view(torch.int16).numpy())
    assert b.astype(np.float32).tolist() == x.tolist()
    assert (c.dtype, c.tolist()) == (np.int32, [0, 1, 2, 3])
    data = as_source("train", {"x": x, "y": wide}, batch_size=2)
    assert data.batch(None, 1)["x"].tolist() == [[4, 5], [6, 7]]
    np.testing.assert_array_equal(ody.HostDataset(half, 2).reader(0, 0).read(), b[:2])


def test_what_is_no_loader_of_arrays_is_refused():
    with pytest.raises(TypeError, match=r"train is a torch Dataset, .*DataLoader\(data, batch"):
        as_source("train", Examples())
    with pytest.raises(TypeError, match="train is a torch Dataset"):
        as_source("train", TensorDataset(torch.ones(3)))

    class Texts(Examples):
        def __getitem__(self, k):
            return {"x": k, "text": "a"}

    with pytest.raises(ValueError, match=r"train\['text'\]\[0\] must be .* encode text"):
        as_source("train", DataLoader(Texts(), 4))


class Misjudged(Streamed):
    def __len__(self):
        return EXAMPLES + 10


def test_a_pass_that_ends_early_is_an_error():
    with pytest.raises(ValueError, match="train ended at batch 6 of the pass of index 0, .* 8"):
        reads(as_source("train", DataLoader(Misjudged(), 4)).reader(SEED, 0), 7)


@pytest.mark.slow
@pytest.mark.parametrize("loader", [DataLoader, StatefulDataLoader])
def test_worker_processes(loader):
    options = {"num_workers": 1, "multiprocessing_context": "spawn"}
    loader = loader(Examples(), 4, shuffle=True, generator=seeded(), **options)
    source = as_source("train", loader)
    reader = source.reader(SEED, 0)
    reads(reader, 3)
    state = json.loads(json.dumps(reader.state()))
    expected = reads(reader, 5)
    reader.close()
    again = source.reader(SEED, 3, state)
    assert_equal(reads(again, 5), expected)
    again.close()
