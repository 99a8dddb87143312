"""Denoising diffusion of 8x8 digits in Flax Linen: noise by the step's key, samples by a hook.

`python -m examples.diffusion [DIRECTORY]`
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import odyssey_jax as ody
from examples import digits, main

TIMES = 50
KEPT = jnp.cumprod(1 - jnp.linspace(1e-3, 0.2, TIMES))  # of the image's variance, by time


class Denoiser(nn.Module):
    """The noise in [batch, 64] noisy images at [batch] times."""

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        embedded = nn.Embed(TIMES, 64)(time)
        for width in (256, 256):
            x = nn.LayerNorm()(nn.swish(nn.Dense(width)(jnp.concatenate([x, embedded], -1))))
        return nn.Dense(64)(x)


def noised(images: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return noisy images, their times, and the noise."""
    timing, drawing = jax.random.split(key)
    time = jax.random.randint(timing, images.shape[:1], 0, TIMES)
    noise = jax.random.normal(drawing, images.shape)
    kept = KEPT[time][:, None]
    return jnp.sqrt(kept) * images + jnp.sqrt(1 - kept) * noise, time, noise


def loss_fn(apply: Any, batch: dict[str, jax.Array], *, key: jax.Array) -> jax.Array:
    """Return the mean squared error of the noise; in validation the key is that of the batch."""
    noisy, time, noise = noised(2 * batch["image"].reshape(-1, 64) - 1, key)
    return ((apply(noisy, time) - noise) ** 2).mean()


@jax.jit
def samples(variables: Any, key: jax.Array) -> jax.Array:
    """Draw [16, 64] images, from noise alone."""

    def step(carry: Any, time: jax.Array) -> tuple[Any, None]:
        x, key = carry
        key, now = jax.random.split(key)
        kept, before = KEPT[time], jnp.where(time == 0, 1.0, KEPT[time - 1])
        noise = Denoiser().apply(variables, x, jnp.full(len(x), time))
        image = jnp.clip((x - jnp.sqrt(1 - kept) * noise) / jnp.sqrt(kept), -1, 1)
        spread = (1 - before) / (1 - kept) * (1 - kept / before)
        mean = jnp.sqrt(before) * (1 - kept / before) * image
        mean = (mean + jnp.sqrt(kept / before) * (1 - before) * x) / (1 - kept)
        noisy = mean + jnp.sqrt(spread) * jax.random.normal(now, x.shape)
        return (noisy, key), None

    first = jax.random.normal(key, (16, 64))
    (x, _), _ = jax.lax.scan(step, (first, key), jnp.arange(TIMES)[::-1])
    return x


def drawn(view: Any) -> None:
    """Print a sample."""
    image = samples(view.model, jax.random.key(view.step))[0].reshape(8, 8)
    print("\n".join("".join(" .:-=+*#%@"[int(5 * (1 + v) - 1e-3)] for v in row) for row in image))


def run(directory: Any = None, epochs: int = 100, **options: Any) -> ody.FitResult:
    """Train it, and return the result."""
    train, valid = digits(100)
    task = ody.linen_task(Denoiser(), loss_fn, jnp.zeros((1, 64)), jnp.zeros(1, int))
    options.setdefault("hooks", [ody.hook(drawn, ody.every(epochs=25))])
    return ody.fit(
        task,
        optax.adam,
        train,
        valid,
        epochs=epochs,
        learning_rate=ody.warmup_cosine(
            2e-3, ody.schedules.fraction(0.05), ody.schedules.fraction(1.0)
        ),
        average=ody.exponential_average(0.995),
        directory=directory,
        **options,
    )


if __name__ == "__main__":
    main(run, "diffusion")
