"""A user's program that a type checker accepts; `wrong.py` is one that it does not."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import odyssey_jax as ody


@dataclasses.dataclass(frozen=True)
class StopAbove:
    """A callback as the documentation has it: a frozen dataclass."""

    bound: float
    monitor: str = "train/loss"
    points: tuple[ody.Point, ...] = (ody.Point.EPOCH_END,)

    def init(self, event: ody.Event) -> jax.Array:
        event.metric(self.monitor)
        return jnp.zeros((), jnp.int32)

    def update(self, count: jax.Array, event: ody.Event) -> tuple[jax.Array, ody.Signal]:
        above = event.metric(self.monitor) > self.bound
        return count + above, ody.Signal.stop_if(above)

    def report(self, count: jax.Array) -> Mapping[str, jax.Array]:
        return {"above": count}


class Quiet:
    points = (ody.Point.EPOCH_END, ody.Point.TRAIN_END)

    def init(self, event: ody.Event) -> None:
        return None

    def update(self, state: None, event: ody.Event) -> tuple[None, ody.Signal]:
        return state, ody.Signal.none()


def init(event: ody.Event) -> jax.Array:
    return jnp.zeros(())


def update(state: jax.Array, event: ody.Event) -> tuple[jax.Array, ody.Signal]:
    return state, ody.Signal.none()


def loss_fn(w: jax.Array, batch: jax.Array) -> jax.Array:
    return jnp.mean((w - batch) ** 2)


task = ody.pure_task(jnp.zeros(()), loss_fn)
data = ody.ArrayDataset(jnp.ones(8), batch_size=4, shuffle=True)
made: ody.Callback = ody.callback(init, update)
own: ody.Callback = StopAbove(10.0)
quiet: ody.Callback = Quiet()
stopping: ody.Callback = ody.early_stopping("valid/loss", patience=3, restore_best=True)
every_callback = ody.chain(stopping, own, quiet, made, ody.track_best("valid/accuracy"))
schedule = ody.warmup_cosine(
    0.1, warmup_steps=ody.schedules.epochs(1), total_steps=ody.schedules.fraction(1)
)
result = ody.fit(
    task,
    optax.adamw,
    data,
    data,
    epochs=2,
    learning_rate=schedule,
    callbacks=every_callback,
    metrics={"loss": ody.Mean("loss")},
    writers=[ody.JsonLines()],
)
reason: str = result.reason
ody.fit(task, optax.adamw, data, epochs=1, learning_rate=0.1, callbacks=ody.callback(init, update))
ody.fit(task, optax.sgd(0.1), data, epochs=1, callbacks=StopAbove(2.0), writers=[])


class Classifier(nnx.Module):
    """A model of the user's own, which the result's is too."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(4, width, rngs=rngs)
        self.out = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.hidden(x)))

    def classes(self, x: jax.Array) -> jax.Array:
        return self(x).argmax(-1)


Batch = dict[str, jax.Array]


def classify(model: Classifier, batch: Batch, *, train: bool, key: jax.Array) -> ody.train.Loss:
    logits = model(batch["x"] + 0.1 * train * jax.random.normal(key, batch["x"].shape))
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return loss, {"logits": logits, "labels": batch["y"]}


def make(rngs: nnx.Rngs) -> Classifier:
    return Classifier(8, rngs=rngs)


examples = {"x": jnp.ones((8, 4)), "y": jnp.zeros(8, jnp.int32)}
classified = ody.fit(
    ody.nnx_task(Classifier(8, rngs=nnx.Rngs(0)), classify),
    lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate)),
    ody.ArrayDataset(examples, batch_size=4),
    {"clean": ody.ArrayDataset(examples, batch_size=4)},
    steps=4,
    validate=ody.every(steps=2),
    learning_rate=ody.join([ody.linear_warmup(0.1, 2), optax.constant_schedule(0.1)], [2]),
    metrics={"accuracy": ody.Accuracy(), "nnx": nnx.metrics.Average("loss")},
    hooks=[ody.hook(lambda view: {"step": float(view.step)}, ody.every(steps=2), ["step"])],
    placement=ody.data_parallel(),
    directory="runs/typed",
)
found: jax.Array = classified.model.classes(examples["x"])
made_by_function = ody.nnx_task(make, classify)
again: Classifier = ody.fit(made_by_function, optax.MultiSteps(optax.sgd(0.1), 2), examples).model
number: jax.Array = result.model
predicted = ody.predict(made_by_function, classified.state, examples, lambda m, x: m.classes(x))
