"""What checkpoints cost a run whose epochs are short: the digits MLP, 3 ms to an epoch."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import optax
from flax import nnx

import odyssey_jax as ody
from benchmarks._harness import Ratio, interleave, ratio, show_times
from odyssey_jax._digits import MLP, load_digits, loss_fn

OVER_NONE = 1.1


def cadence(*, quick: bool) -> dict[str, Ratio]:
    """Times whole runs of `fit`, their set-up and last save included, with and without saves."""
    epochs, rounds = (500, 2) if quick else (2_000, 7)
    train, valid, _ = load_digits(32)
    task = ody.nnx_task(MLP((128, 64), 0.0, rngs=nnx.Rngs(0)), loss_fn)
    numbers = itertools.count()

    def run(directory: Path | None, saving: ody.Callback | None = None) -> None:
        if directory is not None:
            directory /= str(next(numbers))
        ody.fit(
            task, optax.adamw, train, valid, epochs=epochs, learning_rate=1e-3, callbacks=saving,
            directory=directory, writers=[],
        )  # fmt: skip

    best = ody.checkpoint(keep_best=1, monitor="valid/loss")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        versions = {
            "no checkpoints": lambda: run(None),
            "by default": lambda: run(folder),
            "by default, and the best": lambda: run(folder, best),
        }
        if not quick:
            often = ody.checkpoint(every_epochs=50)
            versions["every 50th epoch"] = lambda: run(folder, often)
        times = interleave(versions, rounds)
    show_times(f"fit, {epochs} epochs", times)
    return {
        "cadence_default": ratio(times, "by default", "no checkpoints", OVER_NONE),
        "cadence_best": ratio(times, "by default, and the best", "no checkpoints", OVER_NONE),
    }
