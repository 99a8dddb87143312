"""A source of the tests' own that is read on the host, in each of the ways to resume."""

import time

import jax
import numpy as np

from tests import examples


class Read:
    """Batches of `examples.arrays()`, in an order that depends on seed and pass.

    Args:
        resumes: As in `HostSource`.
        faults: Step -> what happens there: an exception, seconds to wait, or a function of the
            batch.
    """

    transform = None

    def __init__(self, batch_size=8, resumes="by step", *, faults=None, endless=False, **data):
        self.data, self.batch_size, self.resumes = examples.arrays(**data), batch_size, resumes
        self.faults, self.endless = faults or {}, endless
        self.readers = []

    def __len__(self):
        return len(self.data["y"])

    @property
    def full_batches(self):
        return 0 if self.endless else len(self) // self.batch_size

    @property
    def remainder(self):
        return 0 if self.endless else len(self) % self.batch_size

    @property
    def steps_per_pass(self):
        return None if self.endless else self.full_batches + bool(self.remainder)

    @property
    def spec(self):
        size = self.batch_size
        like = lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
        return jax.tree.map(like, self.data)

    def signature(self):
        return {"kind": "test", "batch_size": self.batch_size, "fingerprint": len(self)}

    def reader(self, seed, step, state=None):
        self.readers.append(Reader(self, seed, step, state))
        return self.readers[-1]


class Reader:
    def __init__(self, source, seed, step, state):
        self.source, self.seed, self.closed = source, seed, False
        if source.resumes == "by skipping":
            self.step = 0
            while self.step < step:
                self.read()
        elif source.resumes == "by state" and step:
            assert state == {"at": step}
            self.step = step
        else:
            self.step = step
        self.ended = False

    def read(self):
        source, step = self.source, self.step
        batches = -(-len(source) // source.batch_size)
        at = step % batches
        if not source.endless and at == 0 and step and not getattr(self, "ended", False):
            self.ended = True
            return None
        self.ended, self.step = False, step + 1
        order = np.random.default_rng((self.seed, step // batches)).permutation(len(source))
        rows = order[at * source.batch_size : (at + 1) * source.batch_size]
        if source.endless:
            rows = np.resize(rows, source.batch_size)
        batch = {name: x[rows] for name, x in source.data.items()}
        fault = source.faults.get(step)
        if isinstance(fault, BaseException):
            raise fault
        if callable(fault):
            return fault(batch)
        time.sleep(fault or 0)
        return batch

    def state(self):
        return {"at": self.step} if self.source.resumes == "by state" else None

    def close(self):
        self.closed = True
