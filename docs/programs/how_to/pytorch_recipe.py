"""A PyTorch recipe: SGD with momentum and decay, a warm-up and a cosine stepped by epoch."""

import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody
from odyssey_jax import compat

x = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
y = (x[:, 0] * x[:, 1] > 0).astype(np.int32)  # 1 where both have one sign
train = ody.ArrayDataset({"x": x[:400], "y": y[:400]}, batch_size=50, shuffle=True)
valid = ody.ArrayDataset({"x": x[400:], "y": y[400:]}, batch_size=50)


def make_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(2, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 2, rngs=rngs))


def loss_fn(model, batch):
    logits = model(batch["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


# torch: SGD(lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
def sgd(rate):
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, 0.9, nesterov=True))


# torch: SequentialLR(opt, [LinearLR(opt, 0.1, total_iters=3), CosineAnnealingLR(opt, 27)], [3]),
# with scheduler.step() once an epoch
by_epoch = compat.torch.SequentialLR(
    base_lr=0.1,
    schedulers=[
        compat.torch.LinearLR(base_lr=0.1, start_factor=0.1, total_iters=3),
        compat.torch.CosineAnnealingLR(base_lr=0.1, T_max=27),
    ],
    milestones=[3],
)
schedule = ody.schedules.by_epoch(by_epoch, train.steps_per_pass)

result = ody.fit(
    ody.nnx_task(make_model(), loss_fn),
    sgd,
    train,
    valid,
    epochs=30,
    learning_rate=schedule,
    clip_norm=1.0,  # torch.nn.utils.clip_grad_norm_
    metrics={"accuracy": ody.Accuracy()},
)
print([round(float(rate), 3) for rate in result.history["learning_rate"][:5]])
