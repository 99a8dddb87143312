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
ody.fit(task, optax.adamw, data, epochs=2, learning_rate="fast")  # wrong
ody.fit(task, 3, data, epochs=2)  # wrong
ody.pure_task({"w": jnp.zeros(())}, lambda: jnp.zeros(()))  # wrong
ody.cosine_decay("high", 100)  # wrong
ody.warmup_cosine(0.1, warmup_steps=None, total_steps=100)  # wrong
ody.fit(task, optax.sgd(0.1), data, epochs=1, metrics={"loss": 3})  # wrong
text: str = ody.fit(task, optax.sgd(0.1), data, epochs=1).model  # wrong
ody.fit(task, optax.sgd(0.1), data, epochs=1, hooks=[print])  # wrong
