"""A generative adversarial network: two optimizers that take turns within a train step.

`python -m examples.gan [DIRECTORY]`
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import odyssey_jax as ody
from examples import digits, main

LATENT, WIDTH = 16, 128


def initial() -> dict[str, Any]:
    """Return the first parameters of the generator, "g", and of the discriminator, "d"."""
    draw = np.random.default_rng(0)

    def layers(*sizes: int) -> list[dict[str, np.ndarray]]:
        pairs = itertools.pairwise(sizes)
        weights = (draw.normal(0, (2 / i) ** 0.5, (i, o)).astype(np.float32) for i, o in pairs)
        return [{"w": w, "b": np.zeros(w.shape[1], np.float32)} for w in weights]

    return {"g": layers(LATENT, WIDTH, 64), "d": layers(64, WIDTH, 1)}


def called(layers: Any, x: jax.Array) -> jax.Array:
    """Apply layers, with a leaky ReLU between them."""
    *hidden, last = layers
    for layer in hidden:
        x = jax.nn.leaky_relu(x @ layer["w"] + layer["b"], 0.2)
    return x @ last["w"] + last["b"]


def images(generator: Any, key: jax.Array, count: int) -> jax.Array:
    """Draw [count, 64] images."""
    return jax.nn.sigmoid(called(generator, jax.random.normal(key, (count, LATENT))))


def judged(discriminator: Any, x: jax.Array, real: float) -> jax.Array:
    """Return how far from real, or from made, a discriminator finds images."""
    logits = called(discriminator, x)[:, 0]
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, real)).mean()


def discriminator_loss(params: Any, batch: Any, *, key: jax.Array) -> jax.Array:
    """Return the discriminator's loss; real images are to be found so with 90 %."""
    real = batch["image"].reshape(-1, 64)
    made = images(params["g"], key, len(real))
    return judged(params["d"], real, 0.9) + judged(params["d"], made, 0.0)


def generator_loss(params: Any, batch: Any, *, key: jax.Array) -> jax.Array:
    """Return the generator's loss: what it makes is to be found real."""
    return judged(params["d"], images(params["g"], key, len(batch["image"])), 1.0)


def update(state: Any, batch: Any, step: Any, optimizer: Any) -> Any:
    """Update the discriminator, and then the generator against it."""
    losses = {"d": discriminator_loss, "g": generator_loss}
    outputs = {}
    for name, loss_fn in losses.items():
        (loss, _), grads = step.value_and_grad(state, batch, loss_fn, part=name)
        params = state.params[name]
        updates, new = optimizer[name].update(grads, state.opt_state[name], params)
        params = {**state.params, name: optax.apply_updates(params, updates)}
        state = state._replace(params=params, opt_state=state.opt_state | {name: new})
        outputs[f"{name}_loss"] = loss
    return state, {"loss": outputs["d_loss"] + outputs["g_loss"], **outputs}


def run(directory: Any = None, epochs: int = 100, **options: Any) -> ody.FitResult:
    """Train it, and return the result."""
    train, _ = digits(100)
    adam = lambda rate: optax.adam(rate, b1=0.5)
    return ody.fit(
        ody.pure_task(initial(), discriminator_loss, update=update),
        {"g": adam, "d": adam},
        train,
        epochs=epochs,
        learning_rate={"g": 1e-3, "d": ody.cosine_decay(5e-4, ody.schedules.fraction(1.0))},
        train_metrics={name: ody.Mean(name) for name in ("g_loss", "d_loss")},
        directory=directory,
        **options,
    )


if __name__ == "__main__":
    main(run, "gan")
