"""Data of any kind: streamed against resident, and against a prefetching loop written by hand.

``python -m benchmarks.data [--quick] [--json FILE]``

Three workloads: the digits MLP, whose epoch takes 3 ms; a CNN on 64x64 images in a memory map of
2 GB (200 MB with --quick); and a byte transformer on the Python standard library's sources. Each
is trained through `make_program`, which `fit` drives, on the same examples, shuffled:

- resident: `ArrayDataset`, one compiled program.
- host: `HostDataset`, of memory maps.
- grain 0, grain 2: Grain's `IterDataset`, in threads of this process, and in 2 workers (not with
  --quick).
- generator: a plain generator of NumPy batches.
- by hand: a jitted and donated step, the next batch moved by `device_put` while one computes,
  over the same batches: of `HostDataset`'s reader, of Grain and of the generator.

Compilation is not in the times, nor is the start of workers. Before each timed run comes one that
is not timed and empties what was read ahead while the other versions had their turn, so that a run
reads as many batches as it trains on.

First comes the anonymous memory (that which is no file's) that a pass over the memory map takes,
and one over a half of it. Keras' `fit` is not compared: it is not among the benchmarks' packages.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import absl.flags
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

import odyssey_jax as ody
from benchmarks._harness import (
    Ratio,
    Version,
    arguments,
    interleave,
    ratio,
    show_ratios,
    show_times,
    write_json,
)
from benchmarks._workloads import IMAGE, Examples, Workload, digits, images, sources
from odyssey_jax.feed import PREFETCH_BYTES, make_program
from odyssey_jax.train import fresh_copy

RATE, ROOT, MEGABYTE = 1e-3, jax.random.key(0), 1e6
CHUNKS = 5  # of which the feed has as many at a time
CAPACITY = 2**12
BY_HAND = 1.03
# On the memory that a pass takes, over what may be read ahead and what the program takes itself;
# and over that of a half of the set.
OVER_PREFETCH, OVER_HALF, PROGRAM_BYTES = 1.5, 1.5, 2**26


def adamw(rate: Any) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=1e-4)


def grain_data(work: Workload, workers: int) -> Any:
    """The examples through Grain, without an end."""
    data = grain.MapDataset.source(work.examples).shuffle(seed=0).repeat()
    data = data.batch(work.batch_size, drop_remainder=True).to_iter_dataset()
    if workers:
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return data


def by_generator(work: Workload) -> Any:
    """A generator function, of which each pass is one call."""

    def batches(index: int) -> Iterator[Any]:
        yield from work.examples.batches(work.batch_size, index)

    return ody.stream(batches, steps_per_pass=len(work.examples) // work.batch_size)


def fed(work: Workload, source: Any) -> Version:
    """Seconds of a step through a program of odyssey_jax."""
    train = ody.data.as_source("train", source)
    batch = sum(x[: work.batch_size].nbytes for x in work.examples.arrays.values())
    program = make_program(
        work.task, adamw, train, None, ody.constant(RATE),
        steps_per_epoch=len(work.examples) // work.batch_size, capacity=CAPACITY,
        prefetch_bytes=CHUNKS * work.chunk * batch,
    )  # fmt: skip
    carry, done = program.init(ROOT), 0

    def run_on(steps: int) -> None:
        nonlocal carry, done
        done += steps
        while int(program.look(carry).step) < done:
            carry, _ = program.run(carry, done)
        jax.block_until_ready(carry)

    return timed(work, run_on)


def by_hand(work: Workload, step: Any, batches: Iterator[Any]) -> Version:
    """Seconds of a step through a loop as an expert writes it."""
    params = fresh_copy(work.task.init(ROOT)[0])
    carry = (params, adamw(RATE).init(params), jnp.zeros(()))
    batch = jax.device_put(next(batches))

    def run_on(steps: int) -> None:
        nonlocal carry, batch
        for _ in range(steps):
            carry = step(carry, batch)
            batch = jax.device_put(next(batches))
        jax.block_until_ready(carry)

    return timed(work, run_on)


def timed(work: Workload, run_on: Callable[[int], None]) -> Version:
    """Seconds of a step, after a run that empties what was read ahead."""

    def version() -> float:
        run_on(work.ahead)
        begun = time.perf_counter()
        run_on(work.steps)
        return (time.perf_counter() - begun) / work.steps

    return version


def jitted_step(work: Workload) -> Any:
    """A train step on (parameters, optimizer state, sum of the losses)."""
    optimizer, (_, model_state) = adamw(RATE), work.task.init(ROOT)

    def step(carry: Any, batch: Any) -> Any:
        params, state, total = carry
        loss_of = lambda params: work.task.loss(params, model_state, batch, ROOT)
        (loss, _), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, total + loss

    return jax.jit(step, donate_argnums=0)


def read_on(source: Any) -> Iterator[Any]:
    """Yield the batches of a source without an end."""
    reader = source.reader(seed=0, step=0)
    while True:
        if (batch := reader.read()) is not None:
            yield batch


def passes(work: Workload) -> Iterator[Any]:
    """Yield the generator's batches without an end."""
    for index in itertools.count():
        yield from work.examples.batches(work.batch_size, index)


def measure(work: Workload, *, quick: bool) -> dict[str, Ratio]:
    """All versions of a workload, and the ratios that are held to something."""
    data, size, step = work.examples.arrays, work.batch_size, jitted_step(work)
    host = ody.HostDataset(data, size, shuffle=True, drop_remainder=True)
    resident = ody.ArrayDataset(data, size, shuffle=True, drop_remainder=True)
    through_grain = work._replace(**work.for_grain)
    versions = {
        "resident": fed(work, resident),
        "host": fed(work, host),
        "generator": fed(work, by_generator(work)),
        "by hand, host": by_hand(work, step, read_on(host)),
        "by hand, generator": by_hand(work, step, passes(work)),
    }
    if not quick:
        versions["grain 0"] = fed(through_grain, grain_data(work, 0))
        versions["by hand, grain 0"] = by_hand(through_grain, step, iter(grain_data(work, 0)))
        versions["grain 2"] = fed(through_grain, grain_data(work, 2))
    times = interleave(versions, 2 if quick else 7)
    show_times(f"{work.name}, a step of {size} examples", times)
    ratios = {f"{work.name}: host / resident": ratio(times, "host", "resident", work.bound)}
    for kind in ("host", "generator", *([] if quick else ["grain 0"])):
        hand = f"by hand, {kind}"
        ratios[f"{work.name}: {kind} / {hand}"] = ratio(times, kind, hand, BY_HAND)
    return ratios


# Memory.


def anonymous() -> int:
    """Bytes of this process's resident memory that are no file's."""
    status = Path("/proc/self/status").read_text()
    field = lambda name: int(re.search(rf"{name}:\s+(\d+) kB", status)[1])  # type: ignore[index]
    return 1024 * (field("VmRSS") - field("RssFile"))


@contextlib.contextmanager
def peak_of(found: list[int]) -> Iterator[None]:
    """Append the anonymous memory at its most."""
    over, most = threading.Event(), [anonymous()]

    def watch() -> None:
        while not over.wait(0.005):
            most.append(max(most.pop(), anonymous()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        found.extend(most)


def memory(work: Workload, limit: int) -> dict[str, Ratio]:
    """A pass of a model that is soon done with a batch, over a set and over a half of it."""
    pixels = int(np.prod(IMAGE))
    mean = lambda w, batch: ((batch["image"].reshape(-1, pixels) @ w) ** 2).mean()
    task = ody.pure_task(jnp.zeros(pixels), mean)
    gc.collect()
    before, peaks = anonymous(), []
    for part in (2, 2, 1):  # after a pass malloc keeps some of what was freed
        data = Examples(work.examples.paths, len(work.examples) // part).arrays
        source = ody.HostDataset(data, work.batch_size, shuffle=True, drop_remainder=True)
        program = make_program(
            task, optax.sgd(0.1), source, None, None, capacity=8, prefetch_bytes=limit
        )
        carry = program.init(ROOT)
        with peak_of(peaks):
            while int(program.look(carry).step) < source.steps_per_pass:
                carry, _ = program.run(carry, source.steps_per_pass)
        program.close()
    _, half, whole = (peak - before for peak in peaks)
    size = sum(x.nbytes for x in work.examples.arrays.values())
    print(
        f"\na pass over {size / MEGABYTE:.0f} MB of which {limit / MEGABYTE:.0f} MB may be read "
        f"ahead: {whole / MEGABYTE:.0f} MB of memory; over a half {half / MEGABYTE:.0f} MB"
    )
    return {
        "memory: pass / read ahead": Ratio([whole / (limit + PROGRAM_BYTES)], OVER_PREFETCH),
        "memory: pass / its half": Ratio([whole / half], OVER_HALF),
    }


def main() -> None:
    absl.flags.FLAGS.mark_as_parsed()  # Grain's workers ask for it
    options = arguments(str(__doc__).splitlines()[0])
    quick = options.quick
    ratios: dict[str, Ratio] = {}
    with tempfile.TemporaryDirectory() as name:
        works = [make(Path(name), quick=quick) for make in (digits, images, sources)]
        ratios |= memory(works[1], PREFETCH_BYTES // (16 if quick else 1))
        for work in works:
            ratios |= measure(work, quick=quick)
    show_ratios(ratios)
    write_json(options.json, ratios)


if __name__ == "__main__":
    main()
