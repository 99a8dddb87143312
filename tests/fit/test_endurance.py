"""Many saves and many epochs: no memory, buffer, thread or file is left behind."""

import gc
import os
import threading
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.store import Store

# How often; ODYSSEY_ENDURANCE=10 makes it 1,000 saves and 10,000 epochs.
LENGTH = int(os.environ.get("ODYSSEY_ENDURANCE", "1"))
SAVES, EPOCHS = 100 * LENGTH, 1000 * LENGTH
MEGABYTE = 2**20


class Usage(NamedTuple):
    """What the process holds."""

    resident: int  # bytes
    buffers: int  # live device arrays
    buffer_bytes: int
    threads: int  # Python's
    tasks: int  # the system's
    files: int


def usage():
    # A save in flight has files open; its thread ends with it.
    while saving := [t for t in threading.enumerate() if t.name.startswith("odyssey_jax store")]:
        saving[0].join()
    gc.collect()
    arrays = jax.live_arrays()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Usage(
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(arrays),
        sum(array.nbytes for array in arrays),
        threading.active_count(),
        len(os.listdir("/proc/self/task")),
        len(os.listdir("/proc/self/fd")),
    )


def assert_no_growth(samples, what):
    """Compares the last sample with that after the first third, when all is warm."""
    warm, last = samples[len(samples) // 3], samples[-1]
    for name, first, end in zip(Usage._fields, warm, last, strict=True):
        print(f"{what}: {name} {first} -> {end}")
    assert last.buffers <= warm.buffers
    assert last.buffer_bytes <= warm.buffer_bytes
    assert last.threads <= warm.threads
    assert last.tasks <= warm.tasks + 2, "a pool may grow to its bound late"
    assert last.files <= warm.files
    assert last.resident - warm.resident <= 8 * MEGABYTE


@pytest.mark.slow
def test_saves_leave_nothing_behind(tmp_path):
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    carry = {f"layer {i}": jnp.zeros(50_000) for i in range(5)}  # 1 MB
    carry |= {"key": jax.random.key_data(jax.random.key(0)), "half": jnp.zeros(10, "bfloat16")}
    samples = []
    with Store(tmp_path, keep_last=2) as store:
        for step in range(SAVES):
            carry = update(carry)
            store.save(step, carry, {"metrics": {"loss": 1 / (step + 1)}})
            if step % (SAVES // 20) == 0:
                store.wait()
                store.forget(())
                samples.append(usage())
        assert len(store._staging) <= 2
    assert_no_growth(samples, f"{SAVES} saves")


class Probe:
    """A writer that looks at the process now and then."""

    def __init__(self):
        self.samples = []
        self._next = 0

    def open(self, run):
        self._every = run.epochs // 20

    def write(self, rows, live):
        if rows and rows[-1]["epoch"] >= self._next:
            self._next = rows[-1]["epoch"] + self._every
            self.samples.append(usage())

    def close(self):
        pass


@pytest.mark.slow
def test_epochs_leave_nothing_behind(tmp_path):
    data = ody.ArrayDataset(np.linspace(0, 1, 32, dtype=np.float32), batch_size=8)
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
    probe = Probe()
    result = ody.fit(
        task,
        optax.adam(1e-3),
        data,
        data,
        epochs=EPOCHS,
        callbacks=ody.checkpoint(every_epochs=10, keep_last=2),
        directory=tmp_path,
        writers=[probe],
    )
    assert result.stop_reason.name == "COMPLETED"
    assert len(probe.samples) > 10
    assert_no_growth(probe.samples, f"{EPOCHS} epochs")
