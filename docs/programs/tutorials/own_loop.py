"""A loop of one's own: the pieces without `fit`."""

# --8<-- [start:pieces]
import jax
import jax.numpy as jnp
import optax
from jax import lax

import odyssey_jax as ody

optimizer = optax.sgd(ody.warmup_cosine(0.1, warmup_steps=10, total_steps=200))
stopping = ody.early_stopping("loss", patience=5, min_delta=1e-6)


def loss_fn(w):
    return jnp.sum((w - jnp.arange(3.0)) ** 2)


def event(epoch, loss):
    return ody.Event({"loss": loss}, ody.Clock(step=epoch, epoch=epoch))


# --8<-- [end:pieces]


# --8<-- [start:while]
def body(carry):
    epoch, w, opt_state, stopper, _ = carry
    updates, opt_state = optimizer.update(jax.grad(loss_fn)(w), opt_state)
    w = optax.apply_updates(w, updates)
    stopper, signal = stopping.update(stopper, event(epoch, loss_fn(w)))
    return epoch + 1, w, opt_state, stopper, signal.stop


w = jnp.zeros(3)
start = (jnp.int32(0), w, optimizer.init(w), stopping.init(event(0, 0.0)), jnp.int32(0))
epochs, w, *_, stop = lax.while_loop(lambda c: (c[0] < 200) & (c[-1] == 0), body, start)
print(ody.StopReason(int(stop)).name, w.round(1))
# --8<-- [end:while]

# --8<-- [start:run]
step_fn = jax.jit(lambda w: (w - 0.1 * jax.grad(loss_fn)(w), loss_fn(w)))

with ody.Run("runs/own", checkpoint=ody.checkpoint(ody.every(steps=50))) as run:
    w = run.restore(jnp.zeros(3))
    for step in run.steps(200):
        w, loss = step_fn(w)
        run.log(step, {"train/loss": loss})
        run.save_if_due(w)
print(run.step, len(run.rows))
# --8<-- [end:run]

# --8<-- [start:core]
task = ody.pure_task(jnp.zeros(3), lambda w, batch: ((w - batch) ** 2).mean())
data = ody.ArrayDataset(jnp.ones((40, 3)), batch_size=4)
loop = ody.train.make_loop(task, optax.sgd, capacity=10)
inputs = ody.train.Inputs(data, None, ody.constant(0.1))
carry = loop.init(jax.random.key(0), *task.init(jax.random.key(0)), inputs)
carry = ody.train.run_compiled(loop, carry, inputs, 55)  # until step 55, in the middle of an epoch
carry = ody.train.run_compiled(loop, carry, inputs, 100)  # and on: the same to the bit
print(int(carry.clock.step), carry.history.metrics["train/loss"].shape)
# --8<-- [end:core]
