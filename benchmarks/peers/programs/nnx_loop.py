"""Flax's own loop: `nnx.jit`, `nnx.Optimizer`, `nnx.MultiMetric`, batches of numpy."""

import numpy as np
import optax
from _measure import run
from _models import MODELS
from flax import nnx


def loss_fn(model, batch):
    logits = model(batch["image"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses.mean(), logits


@nnx.jit
def train_step(model, optimizer, metrics, batch):
    (loss, logits), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["label"])
    optimizer.update(model, grads)


@nnx.jit
def eval_step(model, metrics, batch):
    loss, logits = loss_fn(model, batch)
    metrics.update(loss=loss, logits=logits, labels=batch["label"])


def batches(data, part, order, size):
    for start in range(0, len(order) - size + 1, size):
        rows = order[start : start + size]
        yield {name: data[f"{part}_{name}"][rows] for name in ("image", "label")}


def train(job, data, checkpoints, at_epoch):
    if not job["streamed"]:
        data = {name: np.asarray(x) for name, x in data.items()}
    model = MODELS[job["name"]](nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(job["rate"]), wrt=nnx.Param)
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
    random, history = np.random.default_rng(0), []
    best, best_loss, since = nnx.state(model), np.inf, 0
    if checkpoints:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=1)
        manager = ocp.CheckpointManager(checkpoints.absolute(), options=options)
    for epoch in range(job["epochs"]):
        order = random.permutation(len(data["train_label"]))
        for batch in batches(data, "train", order, job["batch"]):
            train_step(model, optimizer, metrics, batch)
        row = {f"train/{name}": float(x) for name, x in metrics.compute().items()}
        metrics.reset()
        for batch in batches(
            data, "valid", np.arange(len(data["valid_label"])), job["valid_batch"]
        ):
            eval_step(model, metrics, batch)
        row |= {f"valid/{name}": float(x) for name, x in metrics.compute().items()}
        metrics.reset()
        history.append(row)
        at_epoch()
        if row["valid/loss"] < best_loss:
            best, best_loss, since = nnx.clone(nnx.state(model)), row["valid/loss"], 0
        else:
            since += 1
        if checkpoints:
            manager.save(epoch, args=ocp.args.StandardSave(nnx.state((model, optimizer))))
        if since >= job["patience"]:
            break
    if checkpoints:
        manager.close()
    nnx.update(model, best)
    return lambda images: np.argmax(model(images), -1)


if __name__ == "__main__":
    run(train, "jax", "flax")
