"""A program whose every marked line a type checker refuses."""

import jax
import jax.numpy as jnp
import optax

import odyssey_jax as ody


class NoUpdate:
    points = (ody.Point.EPOCH_END,)

    def init(self, event: ody.Event) -> None:
        return None


def update(state: jax.Array, event: ody.Event) -> jax.Array:
    return state


task = ody.pure_task(jnp.zeros(()), lambda w, batch: jnp.mean((w - batch) ** 2))
data = ody.ArrayDataset(jnp.ones(8), 4)
no_update: ody.Callback = NoUpdate()  # wrong
ody.callback(lambda event: None, update)  # wrong
ody.early_stopping("valid/loss", patience="3")  # wrong
ody.track_best("valid/loss", mode="up")  # wrong
ody.fit(task, optax.adamw, data, epochs="2", learning_rate=0.1)  # wrong
ody.fit(task, optax.adamw, data, epochs=2, learning_rate=0.1, callbacks=NoUpdate())  # wrong
