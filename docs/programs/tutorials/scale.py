"""Scale: long batches by accumulation, larger than memory, many runs, and a budget of time."""

import jax.numpy as jnp
import numpy as np
import optax

import odyssey_jax as ody

task = ody.pure_task({"w": jnp.zeros(64)}, lambda p, batch: ((batch @ p["w"] - 1) ** 2).mean())
rows = np.random.default_rng(0).normal(size=(4_096, 64)).astype(np.float32)
# --8<-- [start:memory]
np.save("rows.npy", rows)
train = ody.HostDataset(np.load("rows.npy", mmap_mode="r"), batch_size=64, shuffle=True)
result = ody.fit(
    task,
    optax.adamw,
    train,
    epochs=4,
    learning_rate=ody.warmup_cosine(1e-2, 8, ody.schedules.fraction(1)),
    prefetch_bytes=2**26,  # 64 MiB of batches ahead, on the host and the device together
    accumulate_steps=4,  # the mean gradient of 256 examples makes one update
    clip_norm=1.0,
    max_time=3_600,  # seconds; then it is saved, and returns
    callbacks=ody.checkpoint(ody.every(seconds=600), keep_last=2),
    directory="runs/scale",
)
print(result.reason)
# --8<-- [end:memory]
