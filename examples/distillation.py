"""A mean teacher (Tarvainen and Valpola, 2017): 100 labels, and agreement with an average.

`python -m examples.distillation [DIRECTORY]`
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import odyssey_jax as ody
from examples import digits, main

LABELLED = 100


class MLP(nnx.Module):
    """[batch, 64] pixels to [batch, 10] logits."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.head = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(nnx.relu(self.hidden(x)))


class MeanTeacher(nnx.Module):
    """A student, and a teacher of which each parameter is an average of the student's."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.student = MLP(rngs=rngs)
        self.teacher = nnx.clone(self.student)

    def follow(self, step: jax.Array) -> None:
        """Move the teacher towards the student."""
        decay = jnp.minimum(0.99, step / (step + 10))
        student, teacher = nnx.state(self.student), nnx.state(self.teacher)
        average = lambda old, new: decay * old + (1 - decay) * new
        nnx.update(self.teacher, jax.tree.map(average, teacher, student))


def loss_fn(
    model: MeanTeacher, batch: dict[str, jax.Array], *, train: bool, key: jax.Array, step: jax.Array
) -> Any:
    """Return the cross-entropy of what has a label, and the distance from the teacher."""
    x = batch["image"].reshape(-1, 64)
    if not train:
        logits = model.teacher(x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), {"logits": logits, "labels": batch["label"]}
    model.follow(step)
    logits = model.student(x + 0.1 * jax.random.normal(key, x.shape))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    labelled = batch["labelled"]
    supervised = (losses * labelled).sum() / jnp.maximum(labelled.sum(), 1)
    target = jax.lax.stop_gradient(nnx.softmax(model.teacher(x)))
    agreement = ((nnx.softmax(logits) - target) ** 2).sum(-1).mean()
    outputs = {"logits": logits, "labels": batch["label"], "agreement": agreement}
    return supervised + 10 * agreement, outputs


def run(directory: Any = None, epochs: int = 60, **options: Any) -> ody.FitResult:
    """Train it, and return the result."""
    train, valid = digits(100)
    labelled = jnp.arange(len(train.data["label"])) < LABELLED
    data = train.data | {"labelled": labelled.astype(jnp.float32)}
    model = MeanTeacher(rngs=nnx.Rngs(0))
    return ody.fit(
        ody.nnx_task(model, loss_fn, trainable=nnx.All(nnx.Param, nnx.PathContains("student"))),
        optax.adam,
        ody.ArrayDataset(data, 100, shuffle=True, drop_remainder=True),
        valid,
        epochs=epochs,
        learning_rate=2e-3,
        metrics={"accuracy": ody.Accuracy()},
        train_metrics={"agreement": ody.Mean("agreement")},
        callbacks=ody.track_best("valid/accuracy"),
        directory=directory,
        **options,
    )


if __name__ == "__main__":
    main(run, "distillation")
