"""A batch that is broken, and a rate that is too high: skip the one, go back from the other."""

import jax.numpy as jnp
import numpy as np
import optax

import odyssey_jax as ody

x = np.random.default_rng(0).normal(size=(1_000, 4)).astype(np.float32)
y = x @ np.array([1.0, -2.0, 0.5, 3.0], np.float32)
broken = x.copy()
broken[777] = np.nan  # one example of a thousand


def loss_fn(w, batch):
    return ((batch["x"] @ w - batch["y"]) ** 2).mean()


task = ody.pure_task(jnp.zeros(4), loss_fn)

# --8<-- [start:skip]
result = ody.fit(
    task,
    lambda rate: ody.skip_spikes(optax.adam(rate)),
    ody.ArrayDataset({"x": broken, "y": y}, batch_size=20, shuffle=True),
    epochs=5,
    learning_rate=0.1,
)
print(result.history["skipped_updates"].astype(int))  # so far: one batch an epoch
print(result.model.round(1))
# --8<-- [end:skip]

# --8<-- [start:back]
result = ody.fit(
    task,
    lambda rate: optax.chain(optax.sgd(rate), ody.scale_by_callback()),
    ody.ArrayDataset({"x": x, "y": y}, batch_size=20, shuffle=True),
    epochs=5,
    learning_rate=3.0,  # diverges
    callbacks=ody.roll_back(factor=0.1, at_most=3, divergence_factor=10.0),
)
print(result.history["rollbacks"].astype(int), result.history["learning_rate"].round(2))
print(result.model.round(1))
# --8<-- [end:back]
