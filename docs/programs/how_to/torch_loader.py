"""Batches from PyTorch."""

import numpy as np
import optax
import torch
from flax import nnx
from torch.utils.data import DataLoader, Dataset

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)  # 1 where both have one sign


def make_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(2, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 2, rngs=rngs))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


class Points(Dataset):
    def __len__(self):
        return 400

    def __getitem__(self, index):
        return {"x": torch.from_numpy(x[index]), "y": int(y[index])}


result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    optax.adam,
    # With a generator of its own a shuffled loader can be gone on with, by reading again what
    # was read; torchdata's StatefulDataLoader goes on at once.
    DataLoader(Points(), 50, shuffle=True, generator=torch.Generator().manual_seed(0)),
    ody.ArrayDataset({"x": x[400:], "y": y[400:]}, batch_size=50),
    epochs=10,
    learning_rate=1e-2,
    metrics={"accuracy": ody.Accuracy()},
)
print(result.metrics["valid/accuracy"] > 0.6)
