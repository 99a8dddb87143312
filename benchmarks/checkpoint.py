"""The store against the disk: 10M parameters with Adam's state, in 14 and in 250 leaves.

``python -m benchmarks.checkpoint [--quick] [--json FILE]``

The floors are measured in the same process, in turns with the store, on the same bytes: one
file written and fsynced, one file read, and a memcpy into memory that is in use already.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

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

PARAMETERS = 10_000_000
SAVE_SECONDS, RESTORE_SECONDS = 5.0, 3.0  # what the first plan of this library asked for
OVER_FLOOR = 2.5


def state(arrays: int) -> dict[str, object]:
    """Parameters of mixed sizes in so many arrays, Adam's state of them, and a clock."""
    rng = np.random.default_rng(0)
    weights = np.geomspace(1, 100, arrays)
    sizes = np.maximum(1, (PARAMETERS * weights / weights.sum()).astype(int))
    sizes[-1] += PARAMETERS - sizes.sum()
    params = {
        f"layer_{i:03d}": jnp.asarray(rng.standard_normal(size, np.float32))
        for i, size in enumerate(sizes)
    }
    moments = optax.adam(1e-3).init(params)
    return {"clock": jnp.int32(7), "params": params, "optimizer": moments}


def measure(folder: Path, arrays: int, rounds: int) -> Times:
    """Times the store and its floors on one tree."""
    tree = jax.block_until_ready(state(arrays))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    raw = np.random.default_rng(1).integers(0, 255, size, np.uint8)
    warm = np.zeros_like(raw)
    file = folder / "floor"
    print(f"\n{len(jax.tree.leaves(tree))} leaves, {size / 1e6:.0f} MB")
    with Store(folder / f"store_{arrays}") as store:
        steps = iter(range(10**6))

        def save() -> dict[str, float]:
            start = time.perf_counter()
            store.save(next(steps), tree, {"metrics": {"loss": 0.5}})
            blocked = time.perf_counter() - start
            store.wait()
            total = time.perf_counter() - start
            store.forget(())  # the old step's files are gone before the next is timed
            return {"save, blocked": blocked, "save, total": total}

        def restore() -> None:
            jax.block_until_ready(store.restore(tree).tree)

        def write_and_fsync() -> float:
            file.unlink(missing_ok=True)
            start = time.perf_counter()
            with file.open("wb") as stream:
                stream.write(raw.data)
                stream.flush()
                os.fsync(stream.fileno())
            return time.perf_counter() - start

        def read() -> None:
            file.read_bytes()

        first = save()["save, total"]
        write_and_fsync()
        print(f"first save of the process: {first:.2f} s")
        return interleave(
            {
                "write + fsync": write_and_fsync,
                "read": read,
                "memcpy": lambda: np.copyto(warm, raw),
                "save": save,
                "restore": restore,
            },
            rounds,
            warmup=2,
        )


def main() -> None:
    """Measures, prints, and writes what was asked for."""
    options = arguments("The store against the disk.")
    ratios: dict[str, Ratio] = {}
    for arrays in (4, 83):  # with Adam's two moments, its count and the clock: 14 and 251
        with tempfile.TemporaryDirectory() as folder:
            times = measure(Path(folder), arrays, rounds=7 if options.quick else 21)
        leaves = 3 * arrays + 2
        show_times(f"{leaves} leaves", times)
        for name, limit in (("save, total", SAVE_SECONDS), ("restore", RESTORE_SECONDS)):
            worst = max(times[name])
            print(
                f"{name}: at worst {worst:.2f} s, {'within' if worst < limit else 'OVER'} {limit} s"
            )
        ratios |= {
            f"save_total_{leaves}": ratio(times, "save, total", "write + fsync", OVER_FLOOR),
            f"save_blocked_{leaves}": ratio(times, "save, blocked", "memcpy", OVER_FLOOR),
            f"restore_{leaves}": ratio(times, "restore", "read", OVER_FLOOR),
        }
    show_ratios(ratios)
    write_json(options.json, ratios)


if __name__ == "__main__":
    main()
