"""A user's program that a type checker accepts; `wrong.py` is one that it does not."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

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
