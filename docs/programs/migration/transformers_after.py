"""The same run by `fit`."""

import numpy as np
import optax
from datasets import Dataset
from flax import nnx

import odyssey_jax as ody

# --8<-- [start:data]
x = np.random.default_rng(0).integers(0, 64, size=(600, 8))
y = (x[:, 0] < x[:, 1]).astype(np.int32)
tokenized = Dataset.from_dict({"input_ids": x, "labels": y}).train_test_split(200, seed=0)
# --8<-- [end:data]


# --8<-- [start:program]
class Classifier(nnx.Module):  # any Flax model
    def __init__(self, *, rngs):
        self.embed = nnx.Embed(64, 8, rngs=rngs)
        self.head = nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.embed(tokens).reshape(len(tokens), -1))


def loss_fn(model, batch):
    logits, labels = model(batch["input_ids"]), batch["labels"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), {"logits": logits, "labels": labels}


task = ody.nnx_task(Classifier(rngs=nnx.Rngs(0)), loss_fn)
result = ody.fit(
    ody.mixed_precision(task),  # bf16=True
    lambda rate: optax.adamw(rate, weight_decay=0.01),
    tokenized["train"],
    tokenized["test"],
    batch_size=50,
    epochs=20,
    accumulate_steps=2,
    learning_rate=ody.compat.transformers.get_cosine_schedule_with_warmup(
        base_lr=1e-2, num_warmup_steps=8, num_training_steps=80
    ),
    clip_norm=1.0,
    metrics={"accuracy": ody.Accuracy()},
    callbacks=ody.chain(
        ody.early_stopping("valid/accuracy", patience=5, restore_best=True),
        ody.checkpoint(every_epochs=1, keep_last=2, keep_best=1, monitor="valid/accuracy"),
    ),
    log_every_n_steps=4,
    writers=[ody.ProgressLine(), ody.TensorBoard()],
    seed=0,
    directory="runs/trainer",  # resume_from_checkpoint=True
)
# --8<-- [end:program]
