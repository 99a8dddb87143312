"""A physics-informed network by L-BFGS, in float64: u'' + u = 0 with u(0) = 0 and u'(0) = 1.

`JAX_ENABLE_X64=1 python -m examples.physics_informed [DIRECTORY]`
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import odyssey_jax as ody
from examples import main

WIDTH, END = 16, 6.0


def solution(params: dict[str, jax.Array], t: jax.Array) -> jax.Array:
    """Return u(t), which is 0 and has the slope 1 at 0 whatever the parameters are."""
    hidden = jnp.tanh(params["in"] * t + params["bias"])
    hidden = jnp.tanh(params["hidden"] @ hidden)
    return t + t**2 * (params["out"] @ hidden)


def loss_fn(params: dict[str, jax.Array], t: jax.Array) -> jax.Array:
    """Return the mean square of what the equation leaves, at the times of a batch."""
    u = lambda t: solution(params, t)
    left = jax.vmap(lambda t: jax.grad(jax.grad(u))(t) + u(t))(t)
    return (left**2).mean()


def initial() -> dict[str, np.ndarray]:
    """Return the first parameters, in float64."""
    draw = np.random.default_rng(0).normal
    shapes = {"in": (WIDTH,), "bias": (WIDTH,), "hidden": (WIDTH, WIDTH), "out": (WIDTH,)}
    return {name: draw(size=shape) / WIDTH**0.5 for name, shape in shapes.items()}


def run(directory: Any = None, epochs: int = 20, **options: Any) -> ody.FitResult:
    """Train it, and return the result."""
    if not jax.config.read("jax_enable_x64"):
        raise RuntimeError("L-BFGS needs float64 here: set JAX_ENABLE_X64=1.")
    times = np.linspace(0, END, 64)
    return ody.fit(
        ody.pure_task(initial(), loss_fn),
        optax.lbfgs(memory_size=20),  # its line search calls the loss as often as it needs
        ody.ArrayDataset(times, 64),
        epochs=epochs,
        steps_per_epoch=options.pop("steps_per_epoch", 25),
        callbacks=ody.early_stopping("train/loss", patience=5),
        directory=directory,
        **options,
    )


if __name__ == "__main__":
    main(run, "physics_informed")
