"""What a run of a large model would take of each of 8 devices: nothing of it is made."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")  # before JAX starts

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import odyssey_jax as ody

WIDTH, DEPTH = 2_048, 4


class MLP(nnx.Module):
    def __init__(self, *, rngs):
        self.layers = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(DEPTH)])

    def __call__(self, x):
        for layer in self.layers:
            x = x + nnx.relu(layer(x))
        return x


def loss_fn(model, x):
    return ((model(x) - 1) ** 2).mean()


task = ody.nnx_task(lambda rngs: MLP(rngs=rngs), loss_fn)  # a function: no parameter is drawn
for placement in (ody.data_parallel(), ody.fully_sharded()):
    found = ody.describe_run(
        task,
        optax.adamw,
        jnp.zeros((256, WIDTH)),
        batch_size=256,
        learning_rate=1e-3,
        placement=placement,
        memory_bytes=16 * 2**30,
    )
    print(found)
    print(found.parameters, found.bytes_per_device["optimizer"] // 2**20, "MiB of moments")
print(jax.device_count())
