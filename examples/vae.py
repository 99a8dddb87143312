"""A variational autoencoder: noise by the step's key, a weight of the KL term that grows.

`python -m examples.vae [DIRECTORY]`
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import odyssey_jax as ody
from examples import digits, main

LATENT = 8


class VAE(nnx.Module):
    """[batch, 64] pixels to a normal distribution of [batch, LATENT], and back to logits."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.mean = nnx.Linear(128, LATENT, rngs=rngs)
        self.log_variance = nnx.Linear(128, LATENT, rngs=rngs)
        self.wide = nnx.Linear(LATENT, 128, rngs=rngs)
        self.pixels = nnx.Linear(128, 64, rngs=rngs)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the mean and the logarithm of the variance."""
        hidden = nnx.relu(self.hidden(x))
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, z: jax.Array) -> jax.Array:
        """Return logits of the pixels."""
        return self.pixels(nnx.relu(self.wide(z)))


def loss_fn(
    model: VAE, batch: dict[str, jax.Array], *, train: bool, key: jax.Array, progress: jax.Array
) -> Any:
    """Return the negative evidence bound; its KL term grows for the first half of the run."""
    x = batch["image"].reshape(-1, 64)
    mean, log_variance = model.encode(x)
    noise = jax.random.normal(key, mean.shape) if train else 0.0
    logits = model.decode(mean + jnp.exp(log_variance / 2) * noise)
    reconstruction = optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
    kl = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1)
    beta = jnp.minimum(1.0, 2 * progress) if train else 1.0
    return (reconstruction + beta * kl).mean(), {"reconstruction": reconstruction, "kl": kl}


def run(directory: Any = None, epochs: int = 60, **options: Any) -> ody.FitResult:
    """Train it, and return the result."""
    train, valid = digits(100)
    parts = {name: ody.Mean(name) for name in ("reconstruction", "kl")}
    return ody.fit(
        ody.nnx_task(VAE(rngs=nnx.Rngs(0)), loss_fn),
        optax.adam,
        train,
        valid,
        epochs=epochs,
        learning_rate=ody.cosine_decay(2e-3, ody.schedules.fraction(1.0)),
        metrics=parts,
        train_metrics=parts,
        callbacks=ody.track_best(),
        directory=directory,
        **options,
    )


if __name__ == "__main__":
    main(run, "vae")
