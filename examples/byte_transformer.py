"""A byte transformer on the Python standard library's sources: read from the host, WSD, average.

`python -m examples.byte_transformer [DIRECTORY]`
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody
from examples import main

CONTEXT = 64


class Block(nnx.Module):
    """Attention to what comes before, and a layer for each byte alone."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.RMSNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.wide = nnx.Linear(width, 4 * width, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.norms[0](x), mask=mask)
        return x + self.narrow(nnx.gelu(self.wide(self.norms[1](x))))


class Transformer(nnx.Module):
    """[batch, context] bytes to [batch, context, 256] logits of the next one."""

    def __init__(self, width: int = 64, depth: int = 2, *, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(256, width, rngs=rngs)
        self.places = nnx.Embed(CONTEXT, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.RMSNorm(width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x)
        x = self.tokens(x) + self.places(jnp.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x, mask)
        return self.tokens.attend(self.norm(x))


def loss_fn(model: Transformer, batch: dict[str, jax.Array]) -> Any:
    """Return the mean cross-entropy of the next byte, in nats."""
    text = batch["text"].astype(jnp.int32)
    logits = model(text[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:])
    return losses.mean(), {"bits": losses / jnp.log(2)}


def sources(files: int = 40) -> dict[str, np.ndarray]:
    """Return rows of CONTEXT + 1 bytes of the standard library."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:files]
    text = np.frombuffer(b"".join(path.read_bytes() for path in paths), np.uint8)
    rows = len(text) // (CONTEXT + 1)
    return {"text": text[: rows * (CONTEXT + 1)].reshape(rows, CONTEXT + 1)}


def run(directory: Any = None, epochs: int = 20, **options: Any) -> ody.FitResult:
    """Train it, and return the result."""
    data = sources()
    cut = len(data["text"]) - 512
    train = ody.HostDataset({"text": data["text"][:cut]}, 16, shuffle=True)
    valid = ody.ArrayDataset({"text": data["text"][cut:]}, 64)
    rate = ody.warmup_stable_decay(
        3e-3,
        warmup_steps=ody.schedules.fraction(0.1),
        decay_steps=ody.schedules.fraction(0.2),
        total_steps=ody.schedules.fraction(1.0),
    )
    return ody.fit(
        ody.nnx_task(Transformer(rngs=nnx.Rngs(0)), loss_fn),
        lambda rate: optax.adamw(rate, b2=0.95, weight_decay=0.1),
        train,
        valid,
        epochs=epochs,
        steps_per_epoch=options.pop("steps_per_epoch", 100),
        learning_rate=rate,
        metrics={"bits": ody.Mean("bits")},
        callbacks=ody.track_best("valid/bits", mode="min"),
        clip_norm=1.0,
        accumulate_steps=2,
        average=ody.exponential_average(0.99),
        directory=directory,
        **options,
    )


if __name__ == "__main__":
    main(run, "byte_transformer")
