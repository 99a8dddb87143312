"""DP-SGD: every example's gradient clipped, their sum with noise (Abadi et al., 2016).

`python -m examples.dp_sgd [DIRECTORY]`
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

import odyssey_jax as ody
from examples import digits, main


def logits(params: dict[str, jax.Array], images: jax.Array) -> jax.Array:
    """Return [batch, 10] logits of [batch, 8, 8, 1] images."""
    hidden = jax.nn.tanh(images.reshape(len(images), -1) @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def loss_fn(params: dict[str, jax.Array], batch: dict[str, jax.Array]) -> Any:
    """Return the cross-entropy, and what the accuracy needs."""
    found = logits(params, batch["image"])
    losses = optax.softmax_cross_entropy_with_integer_labels(found, batch["label"])
    return losses.mean(), {"logits": found, "labels": batch["label"]}


def initial() -> dict[str, np.ndarray]:
    """Return the first parameters."""
    draw = np.random.default_rng(0).normal
    made = {"w1": draw(0, 1 / 8, (64, 32)), "w2": draw(0, 1 / 6, (32, 10))}
    made |= {"b1": np.zeros(32), "b2": np.zeros(10)}
    return {name: x.astype(np.float32) for name, x in made.items()}


def update(state: Any, batch: Any, step: Any, optimizer: Any) -> Any:
    """Make a train step of every example's gradient: `optax.contrib.dpsgd` takes them apart."""

    def of_one(example: Any) -> Any:
        return step.value_and_grad(state, jax.tree.map(lambda x: x[None], example))

    (losses, (_, outputs)), grads = jax.vmap(of_one)(batch)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    outputs = jax.tree.map(lambda x: x[:, 0], outputs)  # from batches of one
    return state._replace(params=params, opt_state=opt_state), {"loss": losses.mean(), **outputs}


def private(rate: Any) -> optax.GradientTransformation:
    """Return the optimizer; its noise is drawn from a key in its state."""
    return optax.contrib.dpsgd(rate, l2_norm_clip=1.0, noise_multiplier=0.6, key=0)


def run(directory: Any = None, epochs: int = 30, **options: Any) -> ody.FitResult:
    """Train it, and return the result."""
    train, valid = digits(250)
    return ody.fit(
        ody.pure_task(initial(), loss_fn, update=update),
        private,
        train,
        valid,
        epochs=epochs,
        learning_rate=0.5,
        metrics={"accuracy": ody.Accuracy()},
        train_metrics={"accuracy": ody.Accuracy()},
        directory=directory,
        **options,
    )


if __name__ == "__main__":
    main(run, "dp_sgd")
