"""LoRA on an int8 base: a network learns upright digits, is quantised, and learns turned ones.

`python -m examples.lora [DIRECTORY]`
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import odyssey_jax as ody
from examples import digits, main


class Quantised(nnx.Variable):
    """A value that is not trained."""


class Int8Linear(nnx.Module):
    """A layer in int8 with a scale for each output, and two small matrices that are trained."""

    def __init__(self, base: nnx.Linear, rank: int, *, rngs: nnx.Rngs):
        kernel = base.kernel[...]
        scale = jnp.abs(kernel).max(0) / 127
        self.kernel = Quantised(jnp.round(kernel / scale).astype(jnp.int8))
        self.scale, self.bias = Quantised(scale), Quantised(base.bias[...])
        self.lora = nnx.LoRA(*kernel.shape[:1], rank, kernel.shape[1], rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        base = x @ self.kernel[...].astype(x.dtype) * self.scale[...] + self.bias[...]
        return base + self.lora(x)


class MLP(nnx.Module):
    """[batch, 8, 8, 1] images to [batch, 10] logits."""

    def __init__(self, layers: list[Any]):
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


def loss_fn(model: MLP, batch: dict[str, jax.Array]) -> Any:
    """Return the cross-entropy, and what the accuracy needs."""
    logits = model(batch["image"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses.mean(), {"logits": logits, "labels": batch["label"]}


def turned(batch: dict[str, jax.Array], key: jax.Array | None) -> dict[str, jax.Array]:
    """Turn images by 90 degrees."""
    del key
    return batch | {"image": jnp.rot90(batch["image"], axes=(1, 2))}


def run(directory: Any = None, epochs: int = 20, **options: Any) -> ody.FitResult:
    """Train it, and return the result."""
    options |= {"metrics": {"accuracy": ody.Accuracy()}, "learning_rate": 3e-3}
    rngs, sizes = nnx.Rngs(0), (64, 128, 10)
    first = MLP([nnx.Linear(i, o, rngs=rngs) for i, o in itertools.pairwise(sizes)])
    train, valid = digits(50)
    base = ody.fit(
        ody.nnx_task(first, loss_fn), optax.adam, train, valid, epochs=5,
        **options | {"writers": [], "hooks": []},
    ).model  # fmt: skip
    model = MLP([Int8Linear(layer, 4, rngs=rngs) for layer in base.layers])
    train, valid = digits(50, transform=turned)
    return ody.fit(
        ody.nnx_task(model, loss_fn, trainable=nnx.LoRAParam),
        optax.adam,
        train,
        ody.ArrayDataset(valid.data, 99, transform=turned),
        epochs=epochs,
        directory=directory,
        **options,
    )


if __name__ == "__main__":
    main(run, "lora")
