"""An image classifier in Flax NNX: augmentation on the device, BatchNorm, early stopping.

`python -m examples.image_classifier [DIRECTORY]`
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import odyssey_jax as ody
from examples import digits, main


class CNN(nnx.Module):
    """[batch, 8, 8, 1] images to [batch, 10] logits."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.convs = nnx.List(
            [nnx.Conv(i, o, (3, 3), use_bias=False, rngs=rngs) for i, o in ((1, 16), (16, 32))]
        )
        self.norms = nnx.List([nnx.BatchNorm(n, rngs=rngs) for n in (16, 32)])
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.max_pool(nnx.relu(norm(conv(x))), (2, 2), (2, 2))
        return self.head(self.dropout(x.mean((1, 2))))


def augmented(batch: dict[str, jax.Array], key: jax.Array | None) -> dict[str, jax.Array]:
    """Move every image by up to a pixel, and change its contrast; validation has no key."""
    if key is None:
        return batch
    moving, scaling = jax.random.split(key)
    images = batch["image"]
    shifts = jax.random.randint(moving, (len(images), 2), -1, 2)
    moved = jax.vmap(lambda image, by: jnp.roll(image, by, (0, 1)))(images, shifts)
    contrast = jax.random.uniform(scaling, (len(images), 1, 1, 1), minval=0.8, maxval=1.2)
    return batch | {"image": moved * contrast}


def loss_fn(model: CNN, batch: dict[str, jax.Array]) -> Any:
    """Return the cross-entropy, and what the accuracy needs."""
    logits = model(batch["image"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses.mean(), {"logits": logits, "labels": batch["label"]}


def run(directory: Any = None, epochs: int = 30, **options: Any) -> ody.FitResult:
    """Train it, and return the result."""
    train, valid = digits(60, transform=augmented)
    return ody.fit(
        ody.nnx_task(CNN(rngs=nnx.Rngs(0)), loss_fn),
        lambda rate: optax.adamw(rate, weight_decay=1e-3),
        train,
        valid,
        epochs=epochs,
        learning_rate=ody.one_cycle(3e-2, ody.schedules.fraction(1.0)),
        metrics={"accuracy": ody.Accuracy()},
        callbacks=ody.early_stopping("valid/accuracy", patience=8, restore_best=True),
        directory=directory,
        **options,
    )


if __name__ == "__main__":
    main(run, "image_classifier")
