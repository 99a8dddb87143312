"""Several devices: `fit` over a hand-written loop, bytes per device, resumes, saves to a bucket.

``python -m benchmarks.scale [--quick] [--json FILE]``

The loop by hand is what an expert writes: a jitted scan of an epoch's steps with the same
shardings, donated, over batches that lie on the devices. These are 8 simulated ones where there
are no others, which
share the cores: the ratios say what `fit` adds, and nothing of how it scales. The bucket is moto's
S3 server on the loopback, in Python and on the same cores: what the loop waits for is what counts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if "XLA_FLAGS" not in os.environ:
    # Simulated devices wait for one another on the threads that products of matrices would take.
    os.environ["XLA_FLAGS"] = (
        "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
    )

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import odyssey_jax as ody
from benchmarks._harness import (
    Ratio,
    Version,
    arguments,
    interleave,
    ratio,
    show_ratios,
    show_times,
    write_json,
)

P = PartitionSpec
WIDTH, DEPTH, BATCH, RATE = 256, 4, 64, 1e-3


def params_of(key: jax.Array) -> Any:
    keys = jax.random.split(key, DEPTH)
    return [{"w": jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5} for k in keys]


def loss_of(params: Any, batch: jax.Array) -> jax.Array:
    x = batch
    for layer in params:
        x = jax.nn.relu(x @ layer["w"])
    return ((x - batch) ** 2).mean()


def placements() -> dict[str, Any]:
    """Return placements by name; of as many devices as there are."""
    devices = np.array(jax.devices())
    mesh = Mesh(devices.reshape(-1, min(4, len(devices))), ("data", "model"))
    rules = {"^[02]/w$": P(None, "model"), "^[13]/w$": P("model")}
    return {
        "data parallel": ody.data_parallel(),
        "fully sharded": ody.fully_sharded(),
        "by rules": ody.sharded(mesh, rules, batch=P("data")),
    }


def by_hand(placement: Any, data: jax.Array, steps: int) -> float:
    """Train with a jitted scan; return the seconds that the steps took."""
    optimizer, mesh = optax.adamw(RATE), placement.mesh
    state = ody.TrainState(jax.eval_shape(params_of, jax.random.key(0)))
    params = jax.jit(params_of, out_shardings=placement.shardings(state, state).params)(
        jax.random.key(0)
    )
    held = jax.eval_shape(optimizer.init, params)
    moments = placement.shardings(held, state)
    opt_state = jax.jit(optimizer.init, out_shardings=moments)(params)
    kept = jax.tree.map(lambda x: x.sharding, (params, opt_state))
    laid_out = NamedSharding(mesh, P(None, *placement.batch_spec))
    batches = jax.device_put(data.reshape(-1, BATCH, WIDTH), laid_out)

    def step(carry: Any, batch: jax.Array) -> Any:
        params, opt_state = carry
        loss, grads = jax.value_and_grad(loss_of)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(kept, None))
    def epoch(carry: Any, batches: jax.Array) -> Any:
        return jax.lax.scan(step, carry, batches)

    carry, losses = epoch((params, opt_state), batches)
    jax.block_until_ready(losses)
    start = time.perf_counter()
    for _ in range(steps // len(batches)):
        carry, losses = epoch(carry, batches)
        # Programs that are dispatched ahead starve simulated devices of one another's threads.
        jax.block_until_ready(losses)
    return time.perf_counter() - start


def by_fit(placement: Any, data: jax.Array, steps: int) -> float:
    """Train with `fit`; return the seconds that the steps took."""
    epoch = len(data) // BATCH
    result = train(placement, data, steps // epoch)
    return steps / result.steps_per_second


def train(placement: Any, data: jax.Array, epochs: int, **options: Any) -> ody.FitResult:
    return ody.fit(
        TASK, optax.adamw, data, batch_size=BATCH, epochs=epochs, learning_rate=RATE,
        placement=placement, writers=[], **options,
    )  # fmt: skip


TASK = ody.pure_task(params_of, loss_of)


def bytes_per_device(data: jax.Array) -> dict[str, Ratio]:
    """Compare what a device holds of the state with what the arithmetic says."""
    print("\nbytes of the train state on a device")
    found, numbers = {}, DEPTH * WIDTH**2
    for name, placement in placements().items():
        state = train(placement, data, 1).carry.state
        leaves = jax.tree.leaves((state.params, state.opt_state))
        held = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
        parts = {"data parallel": 1, "fully sharded": jax.device_count(), "by rules": 4}[name]
        said = 3 * 4 * numbers / min(parts, jax.device_count())  # parameters and two moments
        print(f"{name:16} {held:>12,}  {said:>12,.0f} by arithmetic")
        found[f"bytes {name}"] = Ratio([held / said], 1.1)
    return found


def resumes(data: jax.Array) -> None:
    """Save on as many devices and go on with another number, and say how far losses differ."""
    print("\nsaved on and resumed on: the greatest relative difference of a loss")
    counts = [n for n in (1, 2, 4, 8) if n <= jax.device_count()]
    meshes = {n: Mesh(np.array(jax.devices()[:n]), ("data",)) for n in counts}
    whole = train(ody.fully_sharded(meshes[1]), data, 4)
    for saved in counts:
        row = []
        for resumed in counts:
            with tempfile.TemporaryDirectory() as name:
                how = {"directory": Path(name)}
                train(ody.fully_sharded(meshes[saved]), data, 2, **how)
                result = train(ody.fully_sharded(meshes[resumed]), data, 4, **how)
            assert result.steps == whole.steps
            losses = [np.asarray(x.history["train/loss"]) for x in (result, whole)]
            row.append(float(np.max(np.abs(losses[0] / losses[1] - 1))))
        cells = "  ".join(f"{n}: {x:.1e}" for n, x in zip(counts, row, strict=True))
        print(f"{saved} -> {cells}")


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's S3 server; yield the URL of a bucket on it."""
    import fsspec

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.1)
        fsspec.filesystem("s3").mkdir("scale")
        yield "s3://scale"
    finally:
        process.kill()
        process.wait()


def saves(data: jax.Array, rounds: int) -> None:
    """Time saves of a train state to a directory and to a bucket, which take turns."""
    title = "saves of a train state cut over all devices, to a directory and to S3 on the loopback"
    if missing := [name for name in ("moto", "s3fs") if importlib.util.find_spec(name) is None]:
        print(f"\n{title}: left out, since {missing[0]} is not installed")
        return
    state = train(ody.fully_sharded(), data, 1).carry.state

    def version(name: str, store: ody.Store) -> Version:
        def save() -> dict[str, float]:
            start = time.perf_counter()
            store.save((store.latest() or 0) + 1, state, {})
            blocked = time.perf_counter() - start
            store.wait()
            total = time.perf_counter() - start
            return {f"{name}, blocked": blocked, f"{name}, committed": total}

        return save

    with contextlib.ExitStack() as stack:
        local = stack.enter_context(tempfile.TemporaryDirectory())
        places = {"directory": local, "S3": f"{stack.enter_context(s3_server())}/run"}
        stores = {name: stack.enter_context(ody.Store(place)) for name, place in places.items()}
        versions = {name: version(name, store) for name, store in stores.items()}
        show_times(title, dict(sorted(interleave(versions, rounds).items())))


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    rounds, steps = (5, 160) if options.quick else (15, 480)
    data = jnp.asarray(np.random.default_rng(0).normal(size=(16 * BATCH, WIDTH)), jnp.float32)
    ratios: dict[str, Ratio] = {}
    for name, placement in placements().items():
        if options.quick and name == "by rules":  # compiling takes most of a quick run
            continue
        times = interleave(
            {
                "by hand": functools.partial(by_hand, placement, data, steps),
                "fit": functools.partial(by_fit, placement, data, steps),
            },
            rounds,
        )
        show_times(f"{steps} steps, {name}", times)
        ratios[f"fit over by hand, {name}"] = ratio(times, "fit", "by hand", 1.03)
    ratios |= bytes_per_device(data)
    if not options.quick:
        resumes(data)
        saves(data, rounds)
    show_ratios(ratios)
    write_json(options.json, ratios)


if __name__ == "__main__":
    main()
