"""odyssey_jax: the quickstart's program."""

import numpy as np
import optax
from _measure import run
from _models import MODELS
from flax import nnx

import odyssey_jax as ody


def loss_fn(model, batch):
    logits = model(batch["image"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses.mean(), {"logits": logits, "labels": batch["label"]}


class AtEpoch:
    def __init__(self, call):
        self.call = call

    def open(self, run):
        pass

    def write(self, rows, live):
        if rows:
            self.call()

    def close(self):
        pass


def train(job, data, checkpoints, at_epoch):
    kind = ody.HostDataset if job["streamed"] else ody.ArrayDataset
    part = lambda name: {"image": data[f"{name}_image"], "label": data[f"{name}_label"]}
    callbacks = [ody.early_stopping("valid/loss", job["patience"], restore_best=True)]
    if checkpoints:
        callbacks.append(ody.checkpoint(every_epochs=1, keep_last=1))
    result = ody.fit(
        ody.nnx_task(MODELS[job["name"]](nnx.Rngs(0)), loss_fn),
        optax.adamw,
        kind(part("train"), job["batch"], shuffle=True, drop_remainder=True),
        kind(part("valid"), job["valid_batch"]),
        epochs=job["epochs"],
        learning_rate=job["rate"],
        metrics={"accuracy": ody.Accuracy()},
        callbacks=callbacks,
        directory=checkpoints,
        writers=[AtEpoch(at_epoch)],
    )
    return lambda images: np.argmax(result.model(images), -1)


if __name__ == "__main__":
    run(train, "odyssey-jax", "jax", "flax")
