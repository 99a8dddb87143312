"""Callbacks: stop, keep the best, save, guard, and say when."""

import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(1_200, 2)).astype(np.float32)
y = (np.linalg.norm(x, axis=1) > 1.2).astype(np.int32)
train = ody.ArrayDataset({"x": x[:1_000], "y": y[:1_000]}, batch_size=50, shuffle=True)
valid = ody.ArrayDataset({"x": x[1_000:], "y": y[1_000:]}, batch_size=100)


def make_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(2, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 2, rngs=rngs))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


# --8<-- [start:chain]
callbacks = ody.chain(
    ody.early_stopping("valid/loss", patience=10, min_delta=1e-3, restore_best=True),
    ody.track_best("valid/accuracy"),
    ody.checkpoint(every_epochs=5, keep_last=2, keep_best=1, monitor="valid/accuracy"),
    ody.terminate_on_nan(),
)
result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    train,
    valid,
    epochs=200,
    learning_rate=1e-2,
    metrics={"accuracy": ody.Accuracy()},
    callbacks=callbacks,
    directory="runs/callbacks",
)
print(result.reason)
print(sorted(result.bests))
# --8<-- [end:chain]

# --8<-- [start:when]
when = ody.every(epochs=5) & ~ody.until(epochs=20)  # every fifth, from the twentieth on
often = ody.every(steps=1_000) | ody.every(seconds=600)
print(ody.checkpoint(often, keep_last=3).retention.keep_last)
# --8<-- [end:when]


# --8<-- [start:own]
import jax.numpy as jnp


def init(event):
    return jnp.float32(jnp.inf)


def update(least, event):
    loss = event.metric("train/loss")
    return jnp.minimum(least, loss), ody.Signal.stop_if(loss < 0.2)


good_enough = ody.callback(init, update)
ody.testing.check_callback(good_enough)
# --8<-- [end:own]

# --8<-- [start:loop]
stopping = ody.early_stopping("loss", patience=2)
at = lambda epoch, loss: ody.Event({"loss": loss}, ody.Clock(step=epoch, epoch=epoch))
state = stopping.init(at(0, 0.0))
for epoch, loss in enumerate([3.0, 2.0, 2.5, 2.4, 1.0]):
    state, signal = stopping.update(state, at(epoch, loss))
    if signal.stop:
        print("stopped after epoch", epoch)
        break
# --8<-- [end:loop]
