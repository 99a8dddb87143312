"""Data: on the device, on the host, larger than memory, and several validation sets."""

import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody


def make_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(2, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 2, rngs=rngs))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


x = np.random.default_rng(0).normal(size=(1_200, 2)).astype(np.float32)
y = (np.linalg.norm(x, axis=1) > 1.2).astype(np.int32)
# --8<-- [start:device]
# On the device: shuffled there, and read by the compiled program itself.
train = ody.ArrayDataset({"x": x[:1_000], "y": y[:1_000]}, batch_size=50, shuffle=True)
# --8<-- [end:device]

# --8<-- [start:host]
# On the host, or on a disk: only the rows of a batch are read, and shuffling needs no memory.
np.save("x.npy", x[:1_000])
mapped = {"x": np.load("x.npy", mmap_mode="r"), "y": y[:1_000]}
train = ody.HostDataset(mapped, batch_size=50, shuffle=True)
# --8<-- [end:host]


# --8<-- [start:transform]
# Augmentation: a pure function of a batch and a key, within the compiled step.
import jax


def noisy(batch, key):
    if key is None:  # in validation
        return batch
    return batch | {"x": batch["x"] + 0.05 * jax.random.normal(key, batch["x"].shape)}


train = ody.HostDataset(mapped, batch_size=50, shuffle=True, transform=noisy)
# --8<-- [end:transform]

# --8<-- [start:valid]
far = 3 * x[1_000:]
sets = {
    "near": ody.ArrayDataset({"x": x[1_000:], "y": y[1_000:]}, batch_size=100),
    "far": ody.Evaluation(
        ody.ArrayDataset(
            {"x": far, "y": (np.linalg.norm(far, axis=1) > 1.2).astype(np.int32)}, batch_size=100
        ),
        every=ody.every(epochs=3),
        at_start=True,
    ),
}
result = ody.fit(
    ody.nnx_task(make_model(), loss_fn), optax.adam, train, sets, epochs=6, learning_rate=1e-2
)
print([name for name in result.history if name.startswith("valid/")])
print(np.isnan(result.history["valid/far/loss"]).tolist())
# --8<-- [end:valid]

# --8<-- [start:ragged]
ragged = [np.arange(n, dtype=np.int32) for n in (3, 1, 4)]
batch = ody.pad_to({"tokens": ragged}, (4, 8))  # 4 examples of 8 tokens, and a mask
print(batch["tokens"].shape, int(batch["mask"].sum()))
# --8<-- [end:ragged]
