"""The store against the disk, Orbax's defaults and flax's msgpack: what a save and a restore cost.

``python -m benchmarks.checkpoint [--quick] [--json FILE]``

10M parameters with Adam's state (120 MB) in 14, 251 and 3,002 leaves, and a tiny state. All
take turns in one process with their floors, on the same bytes: one file written and fsynced,
one file read, and a memcpy into memory that is in use already. A save is given a carry fresh
from a program that donates it, as in training, and the carry is donated again at once.

"Blocked" is the time until `save` returns, "total" until all is committed and on the disk;
Orbax's defaults do not wait for the disk with all of their files, the store does. Last come
whole runs of `fit` whose epochs take 3 ms.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import _savers
from benchmarks._cadence import cadence
from benchmarks._harness import (
    Ratio,
    Times,
    arguments,
    interleave,
    ratio,
    show_ratios,
    show_times,
    write_json,
)
from odyssey_jax.store import Store
from odyssey_jax.store._layout import plan
from odyssey_jax.store._leaves import flatten
from odyssey_jax.store._snapshot import Staging, sources, take

PARAMETERS = 10_000_000
ARRAYS = (4, 83, 1000)  # with Adam's two moments, its count and the clock: 14, 251, 3,002 leaves
# Of thousands of small leaves each must be touched for the first time, and placed by itself.
BLOCKED = {14: 1.5, 251: 1.5, 3002: 2.4}
RESTORE = {14: 3.0, 251: 3.0, 3002: 4.0}
TINY_MS = 30.0
TOTAL = {14: 1.6, 251: 2.5, 3002: 2.5}

Savers = dict[str, Callable[[Path], _savers.Saver]]

# Does nothing but take the buffers over: thousands of kernels would take long to compile.
donating = jax.jit(jax.lax.optimization_barrier, donate_argnums=0)


def state(arrays: int) -> dict[str, object]:
    """Parameters of mixed sizes in so many arrays, Adam's state of them, and a clock: in NumPy."""
    rng = np.random.default_rng(0)
    weights = np.geomspace(1, 100, arrays)
    sizes = np.maximum(1, (PARAMETERS * weights / weights.sum()).astype(int))
    sizes[-1] += PARAMETERS - sizes.sum()
    params = {
        f"layer_{i:03d}": rng.standard_normal(size, np.float32) for i, size in enumerate(sizes)
    }
    moments = jax.eval_shape(optax.adam(1e-3).init, params)
    # Random as after training: zeros would cost a saver that compresses next to nothing.
    moments = jax.tree.map(
        lambda leaf: np.asarray(rng.standard_normal(leaf.shape), leaf.dtype), moments
    )
    return {"clock": np.int32(7), "params": params, "optimizer": moments}


def tiny_state() -> dict[str, object]:
    """1 MB in 20 leaves."""
    rng = np.random.default_rng(0)
    return {f"layer_{i:02d}": rng.standard_normal(12_500, np.float32) for i in range(20)}


class Carry:
    """A tree in a loop whose program donates it."""

    def __init__(self, tree: Any) -> None:
        self.tree = jax.block_until_ready(donating(jax.device_put(tree)))

    def step(self) -> Any:
        """The tree, in arrays that nobody has seen yet."""
        self.tree = jax.block_until_ready(donating(self.tree))
        return self.tree

    def check_donation(self) -> None:
        """Refuses a program that copied the tree because somebody still held it."""
        before = self.tree
        pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(before)]
        after = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(self.step())]
        deleted = all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
        if not deleted or pointers != after:
            raise RuntimeError("the carry was copied, not donated, after a save")


def compare(
    folder: Path, tree: Any, savers: dict[str, Callable], rounds: int, warmup: int
) -> Times:
    """Times savers and floors in turns, on one tree."""
    carry = Carry(tree)
    versions: dict[str, Callable] = dict(_savers.floors(folder, carry.tree))
    opened = {name: make(folder / name.replace(" ", "_")) for name, make in savers.items()}

    def saving(name: str) -> Callable[[], dict[str, float]]:
        def save() -> dict[str, float]:
            tree = carry.step()
            settle()
            blocked, total = opened[name].save(tree)
            if name == "store":
                carry.check_donation()
            return {f"{name}: save, blocked": blocked, f"{name}: save, total": total}

        return save

    def restoring(name: str) -> Callable[[], float]:
        def restore() -> float:
            settle()
            start = time.perf_counter()
            jax.block_until_ready(opened[name].restore(carry.tree))
            return time.perf_counter() - start

        return restore

    for name in opened:
        saving(name)()
        versions |= {f"{name}: save": saving(name), f"{name}: restore": restoring(name)}
    times = interleave(versions, rounds, warmup)
    for saver in opened.values():
        saver.close()
    return dict(sorted(times.items(), key=lambda item: (":" in item[0], item[0])))


def settle() -> None:
    """Does what those before left to be done: to the disk, and to Python's memory."""
    os.sync()
    gc.collect()


def overlapping(folder: Path, tree: Any, rounds: int) -> Times:
    """Times a save that is asked for while one is in flight, with and without room for it."""
    carry, times = Carry(tree), {}
    for name, room in (("one in flight, room for it", 2), ("one in flight, no room", 1)):
        with Store(folder / str(room), max_in_flight=room) as store:
            for step in range(0, 2 * (rounds + 2), 2):
                store.save(step, carry.step(), {})
                start = time.perf_counter()
                store.save(step + 1, carry.step(), {})
                blocked = time.perf_counter() - start
                store.wait()
                store.forget(())
                if step >= 4:
                    times.setdefault(name, []).append(blocked)
    return times


def gathering(tree: Any, rounds: int) -> tuple[Times, float]:
    """Times the packing that an accelerator does, on this device, and finds its memory.

    Returns:
        The times, that of the first call with its compilation among them, and the bytes
        that the packed arrays take, over those of the tree.
    """
    carry, size = Carry(tree), _bytes(tree)
    leaves, values, _ = flatten(carry.tree)
    described, data = sources(leaves, values, on_device=True)
    layout, found = plan(described), 0.0
    times: Times = {"gathered on the device": []}

    def gather(data: list[Any]) -> float:
        nonlocal found
        start = time.perf_counter()
        taken = jax.block_until_ready(take(layout, data, Staging()))
        found = _bytes(taken) / size
        return time.perf_counter() - start

    times["gathered, the first time"] = [gather(data)]
    for _ in range(rounds):
        data = jax.tree.leaves(carry.step())
        times["gathered on the device"].append(gather(data))
        del data
        carry.check_donation()
    return times, found


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def large(arrays: int, *, quick: bool) -> dict[str, Ratio]:
    """Measures 10M parameters with Adam's state in so many arrays."""
    many = arrays > 10  # then the others take most of the time: fewer rounds, in quick none
    store: Savers = {"store": _savers.ours}
    savers: Savers = store | {
        "orbax": _savers.standard_checkpointer,
        "msgpack": _savers.msgpack,
    }
    tree = state(arrays)
    leaves = len(jax.tree.leaves(tree))
    title = f"{leaves} leaves, {_bytes(tree) / 1e6:.0f} MB"
    with tempfile.TemporaryDirectory() as folder:
        rounds, warmup = (5, 1) if quick else (21, 2)
        times = compare(Path(folder), tree, store, rounds, warmup)
    show_times(f"{title}: the store and its floors", times)
    total = "store: save, total"
    found = {
        f"save_blocked_{leaves}": ratio(times, "store: save, blocked", "memcpy", BLOCKED[leaves]),
        f"save_blocked_{leaves}_by_leaf": ratio(
            times, "store: save, blocked", "memcpy, leaf by leaf", BLOCKED[leaves]
        ),
        f"save_total_{leaves}": ratio(times, total, "write + fsync", TOTAL[leaves]),
        f"restore_{leaves}": ratio(times, "store: restore", "read", RESTORE[leaves]),
    }
    if quick and many:
        return dict(sorted(found.items()))
    # Apart: what the others leave in the process's memory costs the next one some 20 ms.
    with tempfile.TemporaryDirectory() as folder:
        rounds, warmup = (1, 0) if quick else (5 if many else 9, 1)
        beside = compare(Path(folder), tree, savers, rounds, warmup)
    show_times(f"{title}: beside the others", beside)
    if not quick:
        unbounded(title, tree, rounds)
    for other in savers.keys() - {"store"}:
        name = f"save_total_{leaves}_over_{other}"
        found[name] = ratio(beside, total, f"{other}: save, total", 1.0)
    return dict(sorted(found.items()))


def unbounded(title: str, tree: Any, rounds: int) -> None:
    """Measures and shows what has no bound: saves that overlap, and the gathering on a device."""
    with tempfile.TemporaryDirectory() as folder:
        overlap = overlapping(Path(folder), tree, rounds)
    show_times(f"{title}: a save asked for while", overlap)
    packing, memory = gathering(tree, rounds)
    show_times(f"{title}: gathered by a program", packing)
    print(f"the gathered arrays take {memory:.3f} times the tree's bytes")


def tiny(*, quick: bool) -> dict[str, Ratio]:
    """Measures a tiny state."""
    savers: Savers = {"store": _savers.ours}
    if not quick:
        savers |= {
            "orbax": _savers.standard_checkpointer,
            "orbax manager": _savers.checkpoint_manager,
            "msgpack": _savers.msgpack,
        }
    with tempfile.TemporaryDirectory() as folder:
        times = compare(Path(folder), tiny_state(), savers, 9 if quick else 41, warmup=2)
    show_times("20 leaves, 1 MB", times)
    milliseconds = [1e3 * seconds for seconds in times["store: save, total"]]
    return {"tiny_total_ms": Ratio(milliseconds, TINY_MS)}


def main() -> None:
    """Measures, prints, and writes what was asked for."""
    options = arguments(str(__doc__).splitlines()[0])
    gc.freeze()  # what is imported need not be looked through before each save
    ratios = tiny(quick=options.quick)
    for arrays in ARRAYS:
        ratios |= large(arrays, quick=options.quick)
    ratios |= cadence(quick=options.quick)
    show_ratios(ratios)
    write_json(options.json, ratios)


if __name__ == "__main__":
    main()
