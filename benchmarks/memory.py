"""The memory that callbacks take: of best tracking, and of all the others together.

``python -m benchmarks.memory [--quick] [--json FILE]``

A 10M-parameter MLP with AdamW, and a BatchNorm for its model state, twice: by the bytes of the
carry, and by XLA's own account of the compiled run (arguments, outputs and temporaries, less
what the donated carry lends to the outputs). Nothing is trained, so the figures are exact, and
the same each time.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody
from benchmarks._harness import Ratio, arguments, show_ratios, write_json
from odyssey_jax.train import init_compiled

EPOCHS, MEGABYTE = 1_000, 1e6
SIZES = (784, 2_560, 2_560, 560, 10)


class Wide(nnx.Module):
    """An MLP with a BatchNorm after its first layer."""

    def __init__(self, sizes: tuple[int, ...], *, rngs: nnx.Rngs):
        pairs = itertools.pairwise(sizes)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])
        self.norm = nnx.BatchNorm(sizes[1], rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits, [batch, 10]."""
        first, *hidden, last = self.layers
        x = nnx.relu(self.norm(first(x)))
        for layer in hidden:
            x = nnx.relu(layer(x))
        return last(x)


def loss_fn(model: Wide, batch: dict[str, jax.Array]) -> jax.Array:
    logits = model(batch["image"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()


def size_of(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def dataset(examples: int) -> ody.ArrayDataset:
    data = {"image": np.zeros((examples, SIZES[0]), np.float32), "label": np.zeros(examples, int)}
    return ody.ArrayDataset(data, 32, shuffle=True)


def bytes_with(task: ody.Task, callbacks: tuple[ody.Callback, ...]) -> tuple[int, int]:
    """Bytes of the carry, and of the compiled run at its most."""
    loop = ody.train.make_loop(task, optax.adamw, callbacks=ody.chain(*callbacks), capacity=EPOCHS)
    inputs = ody.train.Inputs(dataset(128), dataset(64), ody.constant(1e-3))
    key = jax.random.key(0)
    carry = jax.eval_shape(lambda: init_compiled(loop, key, *task.init(key), inputs))
    lowered = jax.jit(loop.run, donate_argnums=0).lower(carry, inputs, jnp.int32(1))
    found = lowered.compile().memory_analysis()
    if found is None:
        raise RuntimeError(f"XLA keeps no account of memory on {jax.default_backend()}")
    peak = (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
    )
    return size_of(carry), peak


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    task = ody.nnx_task(lambda rngs: Wide(SIZES, rngs=rngs), loss_fn)
    params, model_state = jax.eval_shape(task.init, jax.random.key(0))
    copy = size_of((params, model_state))
    stopping = ody.early_stopping("valid/loss", 10)
    saving = ody.checkpoint(every_epochs=5, keep_best=1, monitor="valid/loss")
    others = (ody.callbacks.log(), stopping, saving)
    sets = {
        "none": (),
        "log, early stopping, checkpoint": others,
        "those and best tracking": (*others, ody.track_best("valid/loss")),
        "those with restore_best": (
            ody.callbacks.log(),
            saving,
            ody.early_stopping("valid/loss", 10, restore_best=True),
        ),
    }
    found = {name: bytes_with(task, callbacks) for name, callbacks in sets.items()}
    print(f"parameters and model state: {copy / MEGABYTE:.3f} MB")
    print(f"\n{'callbacks':34} {'carry, MB':>12} {'program, MB':>12}")
    for name, (carry, program) in found.items():
        print(f"{name:34} {carry / MEGABYTE:12.3f} {program / MEGABYTE:12.3f}")
    none, some, best, restoring = found.values()
    ratios = {}
    for index, where in enumerate(("carry", "program")):
        extra = some[index] - none[index]
        ratios |= {
            f"{where}: others, MB": Ratio([extra / MEGABYTE], 1.0),
            f"{where}: best tracking, copies": Ratio([(best[index] - some[index]) / copy], 1.01),
            f"{where}: restore_best, copies": Ratio(
                [(restoring[index] - some[index]) / copy], 1.01
            ),
        }
    show_ratios(ratios)
    write_json(options.json, ratios)


if __name__ == "__main__":
    main()
