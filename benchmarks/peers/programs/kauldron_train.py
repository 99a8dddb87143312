"""Kauldron: its `Trainer`, a Linen model, and an evaluator that keeps the best and stops."""

import contextlib
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _measure import run
from kauldron import kd


class MLP(nn.Module):
    image: kd.kontext.Key = "batch.image"

    @nn.compact
    def __call__(self, image):
        x = nn.relu(nn.Dense(128)(image))
        return {"logits": nn.Dense(10)(nn.relu(nn.Dense(64)(x)))}


class CNN(nn.Module):
    image: kd.kontext.Key = "batch.image"

    @nn.compact
    def __call__(self, image):
        x = image.astype(jnp.float32) / 255
        for width in (16, 32, 64):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
        return {"logits": nn.Dense(10)(x.mean((1, 2)))}


class StopTraining(Exception):  # noqa: N818, as StopIteration
    """Kauldron stops early by no way of its own."""


class KeepsBest(kd.evals.Evaluator):
    patience: int
    at_epoch: object
    history: list

    def evaluate(self, state, step):
        found = super().evaluate(state, step)
        values = found.compute(flatten=False)
        row = {name: float(x) for name, x in (values.loss_values | values.metric_values).items()}
        self.history.append(row)
        losses = [each["loss"] for each in self.history]
        if losses[-1] == min(losses):
            row["params"] = jax.tree.map(jnp.copy, state.params)
            for other in self.history[:-1]:
                other.pop("params", None)
        self.at_epoch()
        if len(losses) - 1 - losses.index(min(losses)) >= self.patience:
            raise StopTraining
        return found


def train(job, data, checkpoints, at_epoch):
    def pipeline(part, size, **how):
        labels = np.asarray(data[f"{part}_label"])[:, None]
        arrays = {"image": np.asarray(data[f"{part}_image"]), "label": labels}
        return kd.data.InMemoryPipeline(loader=lambda: arrays, batch_size=size, **how)

    steps, history = len(data["train_label"]) // job["batch"], []
    model = {"digits": MLP, "cnn": CNN}[job["name"]]()
    where = {"logits": "preds.logits", "labels": "batch.label"}
    each_epoch = kd.evals.EveryNSteps(steps, skip_first=True)
    valid = pipeline("valid", job["valid_batch"], num_epochs=1)
    keeps = {"patience": job["patience"], "at_epoch": at_epoch, "history": history}
    scratch = tempfile.TemporaryDirectory()  # it leaves a mark there that the training is over
    saves = {"save_interval_steps": steps, "max_to_keep": 1}
    trainer = kd.train.Trainer(
        workdir=checkpoints or scratch.name,
        train_ds=pipeline("train", job["batch"], shuffle=True),
        model=model,
        optimizer=optax.adamw(job["rate"]),
        train_losses={"loss": kd.losses.SoftmaxCrossEntropyWithIntLabels(**where)},
        train_metrics={"accuracy": kd.metrics.Accuracy(**where)},
        num_train_steps=job["epochs"] * steps,
        evals={"valid": KeepsBest(run=each_epoch, ds=valid, **keeps)},
        checkpointer=kd.ckpts.Checkpointer(**saves) if checkpoints else None,
        log_metrics_every=steps,
        writer=None,
    )
    with contextlib.suppress(StopTraining):
        trainer.train()
    best = next(row["params"] for row in history if "params" in row)
    predict = jax.jit(lambda image: model.apply({"params": best}, image)["logits"])
    return lambda images: np.argmax(predict(images), -1)


if __name__ == "__main__":
    run(train, "kauldron", "jax", "flax")
