"""A byte transformer over several devices: annotated, fed by Grain, bfloat16, WSD, an average.

`XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m examples.sharded_transformer [DIR]`

The same directory goes on with another number of devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import odyssey_jax as ody
from examples import main
from examples.byte_transformer import CONTEXT, loss_fn, sources

# Logical axes of the parameters, and along which axis of the mesh each of them is cut.
AXES = {"embed": None, "vocab": "model", "heads": "model", "mlp": "model"}
LOW = {"dtype": jnp.bfloat16}  # what is computed in; parameters are float32


def cut(*axes: str | None) -> Any:
    """Return an initializer of a parameter whose axes are named so."""
    return nnx.with_partitioning(nnx.initializers.lecun_normal(), axes)


class Block(nnx.Module):
    """Attention to what comes before, by heads, and a layer for each byte alone."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.RMSNorm(width, rngs=rngs, **LOW) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(
            4, width, decode=False, rngs=rngs, use_bias=False, **LOW,
            kernel_init=cut("embed", "heads", None), out_kernel_init=cut("heads", None, "embed"),
        )  # fmt: skip
        more = {"rngs": rngs, "use_bias": False, **LOW}
        self.wide = nnx.Linear(width, 4 * width, kernel_init=cut("embed", "mlp"), **more)
        self.narrow = nnx.Linear(4 * width, width, kernel_init=cut("mlp", "embed"), **more)

    @nnx.remat  # what it computes is not kept for the gradient, but computed anew
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.norms[0](x), mask=mask)
        return x + self.narrow(nnx.gelu(self.wide(self.norms[1](x))))


class Transformer(nnx.Module):
    """[batch, context] bytes to [batch, context, 256] logits of the next one."""

    def __init__(self, rngs: nnx.Rngs, width: int = 64, depth: int = 2):
        table = cut("vocab", "embed")
        self.tokens = nnx.Embed(256, width, rngs=rngs, embedding_init=table, **LOW)
        self.places = nnx.Embed(CONTEXT, width, rngs=rngs, **LOW)
        self.blocks = nnx.List([Block(width, rngs) for _ in range(depth)])
        self.norm = nnx.RMSNorm(width, rngs=rngs, **LOW)

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x)
        x = self.tokens(x) + self.places(jnp.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x, mask)
        return self.tokens.attend(self.norm(x)).astype(jnp.float32)


def placement(devices: Sequence[Any] | None = None) -> Any:
    """Return a mesh of 2 x 4 for 8 devices: batches along the first axis, the model the second."""
    grid = np.array(jax.devices() if devices is None else devices)
    mesh = Mesh(grid.reshape(-1, min(4, len(grid))), ("data", "model"))
    return ody.sharded(mesh, annotations=AXES, batch=PartitionSpec("data"))


def run(directory: Any = None, epochs: int = 20, **options: Any) -> ody.FitResult:
    """Train it, and return the result."""
    rows = sources()["text"]
    held_out = len(rows) - 512
    train = grain.MapDataset.source(rows[:held_out]).seed(0).shuffle().map(lambda x: {"text": x})
    rate = ody.warmup_stable_decay(
        3e-3,
        warmup_steps=ody.schedules.fraction(0.1),
        decay_steps=ody.schedules.fraction(0.2),
        total_steps=ody.schedules.fraction(1.0),
    )
    return ody.fit(
        ody.nnx_task(Transformer, loss_fn),
        lambda rate: optax.adamw(rate, b2=0.95, weight_decay=0.1),
        train.batch(16, drop_remainder=True),
        ody.ArrayDataset({"text": rows[held_out:]}, 64),
        epochs=epochs,
        steps_per_epoch=options.pop("steps_per_epoch", 100),
        learning_rate=rate,
        metrics={"bits": ody.Mean("bits")},
        callbacks=ody.track_best("valid/bits", mode="min"),
        clip_norm=1.0,
        accumulate_steps=2,
        average=ody.exponential_average(0.99),
        placement=options.pop("placement", None) or placement(),
        directory=directory,
        **options,
    )


if __name__ == "__main__":
    main(run, "sharded_transformer")
