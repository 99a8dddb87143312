"""What every kind of source on the host keeps: reading goes on where it was left."""

import json

import jax
import numpy as np

from odyssey_jax.data import HostSource

SEED = 2**63 + 11


def reads(reader, batches):
    """What a reader gives, ends of passes (None) included, until so many batches are read."""
    found = []
    while sum(x is not None for x in found) < batches:
        found.append(reader.read())
    return found


def examples(found):
    """The first array's rows of all batches that were read, as one list."""
    return [row for x in found if x is not None for row in np.asarray(jax.tree.leaves(x)[0])]


def assert_equal(found, expected):
    assert [x is None for x in found] == [x is None for x in expected]
    for a, b in zip(found, expected, strict=True):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


def check_goes_on(make, batches, at=None):
    """A reader of a new source, from step k on, gives what the first one gives after step k.

    Args:
        make: Makes the source, as each process does.
        batches: How many are read.
        at: The steps; None is each.
    """
    source = make()
    assert isinstance(source, HostSource)
    assert json.loads(json.dumps(source.signature())) == source.signature()
    reader, whole, states, ends = source.reader(SEED, 0), [], {0: None}, {0: 0}
    states[0] = json.dumps(reader.state())
    while len(states) <= batches:
        batch = reader.read()
        whole.append(batch)
        if batch is not None:
            step = len(states)
            states[step], ends[step] = json.dumps(reader.state()), len(whole)
            check_form(source, batch)
    reader.close()
    for k in at or range(batches + 1):
        state = json.loads(states[k])
        assert (state is None) == (source.resumes != "by state")
        again = make().reader(SEED, k, state)
        assert_equal(reads(again, batches - k), whole[ends[k] :])
        again.close()
    return whole


def check_form(source, batch):
    """A batch has the form of the spec; only the last one of a pass may have fewer examples."""
    assert jax.tree.structure(batch) == jax.tree.structure(source.spec)
    for x, form in zip(jax.tree.leaves(batch), jax.tree.leaves(source.spec), strict=True):
        assert x.dtype == form.dtype
        assert x.shape[1:] == form.shape[1:]
        least = 1 if source.steps_per_pass is None else source.remainder or form.shape[0]
        assert x.shape[0] == form.shape[0] or least <= x.shape[0] < form.shape[0]
