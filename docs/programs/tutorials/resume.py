"""Resume: the same line again."""

import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(1_200, 2)).astype(np.float32)
y = (np.linalg.norm(x, axis=1) > 1.2).astype(np.int32)
train = ody.ArrayDataset({"x": x[:1_000], "y": y[:1_000]}, batch_size=50, shuffle=True)
valid = ody.ArrayDataset({"x": x[1_000:], "y": y[1_000:]}, batch_size=100)


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


# --8<-- [start:run]
def run(directory, **more):
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(2, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 2, rngs=rngs))
    arguments = {"epochs": 20, "learning_rate": ody.cosine_decay(1e-2, 400)}
    return ody.fit(
        ody.nnx_task(model, loss_fn),
        optax.adam,
        train,
        valid,
        directory=directory,
        **arguments | more,
    )


whole = run("runs/whole")
# --8<-- [end:run]


# --8<-- [start:interrupt]
def power_cut(view):
    raise RuntimeError(f"no power at step {view.step}")


try:
    run("runs/cut", hooks=[ody.hook(power_cut, ody.callbacks.at(steps=210))])
except RuntimeError as error:
    print(error)
# --8<-- [end:interrupt]

# --8<-- [start:again]
resumed = run("runs/cut")
same = resumed.history["train/loss"] == whole.history["train/loss"]
print("equal to the bit:", bool(same.all()))
# --8<-- [end:again]

# --8<-- [start:longer]
print(run("runs/cut", epochs=25, schedule_change="extend").epochs, "epochs")
# --8<-- [end:longer]

# --8<-- [start:refused]
try:
    run("runs/cut", epochs=30, learning_rate=ody.cosine_decay(2e-2, 400))
except ValueError as error:
    print(str(error).splitlines()[0][:60])
# --8<-- [end:refused]

# --8<-- [start:begin_again]
run("runs/cut", epochs=2, resume=False)
# --8<-- [end:begin_again]
