"""From the call of `fit` to the end of two short epochs, over a hand-written program.

``python -m benchmarks.startup [--quick] [--json FILE]``

Tracing and compiling are part of speed. The model is an NNX transformer of 6 blocks; the
hand-written program is one jitted nest of scans, over the epochs, the training batches and the
validation batches, as an expert writes it for just that. With a smaller last batch both have one
in training and in validation. The second part trains a model of many leaves (each a parameter
vector of its own) over a bare scan of the same steps.

Every version starts cold: nothing compiled before is found again.

Before them, in processes of their own: `import odyssey_jax` over the imports of JAX, Optax and
NNX; the digits job from the process's start to the end of its first epoch over one bare compiled
program that does the same (`benchmarks/peers/programs`); and its second start over the first,
where JAX's persistent compilation cache is on (as `ody.enable_compilation_cache`).
"""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

import odyssey_jax as ody
from benchmarks._harness import (
    Ratio,
    Times,
    arguments,
    interleave,
    ratio,
    show_ratios,
    show_times,
    write_json,
)
from benchmarks.peers.__main__ import PEERS, report_of, write_data

BLOCKS, WIDTH, HEADS, LENGTH, VOCABULARY, BATCH, EPOCHS = 6, 128, 4, 32, 64, 8, 2
RATE = 1e-3


class Block(nnx.Module):
    """Attention and a feed-forward layer, each behind a norm and beside a residual."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up, self.down = (
            nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs),
            nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the residual stream after the block."""
        mask = nnx.make_causal_mask(jnp.ones((1, LENGTH)))
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    """A decoder over tokens."""

    traced = 0

    def __init__(self, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs=rngs) for _ in range(BLOCKS)])
        self.norm, self.head = (
            nnx.LayerNorm(WIDTH, rngs=rngs),
            nnx.Linear(WIDTH, VOCABULARY, rngs=rngs),
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Return the logits of the next tokens."""
        Transformer.traced += 1
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def mean_loss(model: Transformer, tokens: jax.Array) -> jax.Array:
    logits = model(tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def tokens(batches: int, remainder: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, VOCABULARY, (batches * BATCH + remainder, LENGTH + 1), np.int32)


def by_hand(model: Transformer, train: np.ndarray, valid: np.ndarray) -> jax.Array:
    """Train as a nest of scans; return the validation losses."""
    graphdef, params = nnx.split(model)
    optimizer = optax.adamw(RATE)

    def loss_of(params, batch):
        return mean_loss(nnx.merge(graphdef, params), batch)

    def step(carry, batch):
        params, opt_state = carry
        loss, grads = jax.value_and_grad(loss_of)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    def batches(data):
        return data[: len(data) // BATCH * BATCH].reshape(-1, BATCH, LENGTH + 1)

    def epoch(carry, key):
        order = jax.random.permutation(key, len(train))
        shuffled = jnp.asarray(train)[order]
        carry, losses = lax.scan(step, carry, batches(shuffled))
        if len(train) % BATCH:
            carry, _ = step(carry, shuffled[len(train) // BATCH * BATCH :])
        evaluate = lambda total, batch: (total + loss_of(carry[0], batch) * len(batch), None)
        total, _ = lax.scan(evaluate, jnp.zeros(()), batches(jnp.asarray(valid)))
        if len(valid) % BATCH:
            total, _ = evaluate(total, jnp.asarray(valid)[len(valid) // BATCH * BATCH :])
        return carry, (losses.mean(), total / len(valid))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def run(params, opt_state, keys):
        return lax.scan(epoch, (params, opt_state), keys)

    params = jax.tree.map(jnp.copy, params)
    keys = jax.random.split(jax.random.key(0), EPOCHS)
    _, (_, losses) = run(params, jax.jit(optimizer.init)(params), keys)
    return jax.block_until_ready(losses)


def by_fit(model: Transformer, train: np.ndarray, valid: np.ndarray) -> Any:
    task = ody.nnx_task(model, lambda model, batch: mean_loss(model, batch))
    data = ody.ArrayDataset(train, BATCH, shuffle=True)
    return ody.fit(
        task,
        optax.adamw,
        data,
        ody.ArrayDataset(valid, BATCH),
        epochs=EPOCHS,
        learning_rate=RATE,
        writers=[],
    ).history["valid/loss"]


def leaves_of(count: int) -> dict[str, Any]:
    """Small layers, of two leaves each."""
    layer = {"kernel": jnp.eye(16) / 2, "bias": jnp.full(16, 0.1)}
    return {f"layer{i}": layer for i in range(count // 2)}


def leafy_loss(params: dict[str, Any], batch: jax.Array) -> jax.Array:
    x = batch
    for layer in params.values():
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return (x**2).mean()


def leaves_by_hand(count: int, data: np.ndarray) -> None:
    optimizer = optax.adam(RATE)

    def step(carry, batch):
        params, opt_state = carry
        loss, grads = jax.value_and_grad(leafy_loss)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    @jax.jit
    def run(params, opt_state, batches):
        return lax.scan(step, (params, opt_state), batches)

    params = leaves_of(count)
    jax.block_until_ready(run(params, jax.jit(optimizer.init)(params), data.reshape(-1, 8, 16)))


def leaves_by_fit(count: int, data: np.ndarray) -> None:
    task = ody.pure_task(leaves_of(count), lambda params, batch: leafy_loss(params, batch))
    ody.fit(
        task,
        optax.adam,
        ody.ArrayDataset(data, 8),
        epochs=1,
        learning_rate=RATE,
        writers=[],
    )


def cold(function: Callable[..., Any], *args: Any) -> float:
    """Seconds of a call that finds nothing compiled."""
    jax.clear_caches()
    gc.collect()
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def import_times(bytecode: dict[str, str], rounds: int) -> Times:
    libraries = "import jax, optax; from flax import nnx"
    programs = {
        "jax, optax, nnx": libraries,
        "odyssey_jax": "import odyssey_jax",
        "all of them": f"{libraries}; import odyssey_jax; odyssey_jax.nnx_task",
    }

    variables = {**os.environ, **bytecode}

    def run(program: str) -> None:
        subprocess.run([sys.executable, "-c", program], env=variables, check=True)

    return interleave({k: functools.partial(run, x) for k, x in programs.items()}, rounds)


def digits_times(bytecode: dict[str, str], rounds: int) -> Times:
    """Seconds to the end of the first epoch, each in a new process."""
    peers = {"bare": PEERS["one compiled program"], "fit": PEERS["odyssey_jax"]}
    root = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder), 1)

        def start(name: str, **variables: str) -> float:
            how = {"PYTHONPATH": root, **bytecode, **variables}
            report = report_of(peers[name], Path(sys.executable), "digits", data, 1, **how)
            return report["cold"]

        def cached() -> dict[str, float]:
            with tempfile.TemporaryDirectory() as cache:
                kept = {"JAX_COMPILATION_CACHE_DIR": cache}
                kept["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
                names = "fit, to be kept", "fit, kept"
                return {name: start("fit", **kept) for name in names}

        versions = {"bare": lambda: start("bare"), "fit": lambda: start("fit"), "cached": cached}
        # Without a warm-up: what is imported has its bytecode by now.
        return interleave(versions, rounds, warmup=0)


def transformer_times(remainder: int, rounds: int) -> Times:
    model = Transformer(rngs=nnx.Rngs(0))
    data = tokens(24, remainder, 0), tokens(8, remainder, 1)
    name = "with a smaller last batch" if remainder else "whole batches"
    return interleave(
        {
            f"by hand, {name}": lambda: cold(by_hand, model, *data),
            f"fit, {name}": lambda: cold(by_fit, model, *data),
        },
        rounds,
        warmup=0,
    )


def leaf_times(count: int, rounds: int) -> Times:
    data = np.random.default_rng(0).normal(size=(80, 16)).astype(np.float32)
    return interleave(
        {
            f"bare scan, {count} leaves": lambda: cold(leaves_by_hand, count, data),
            f"fit, {count} leaves": lambda: cold(leaves_by_fit, count, data),
        },
        rounds,
        warmup=0,
    )


def model_traces(remainder: int) -> tuple[int, int]:
    """How often the model's Python code runs in a `fit` with and without validation."""
    model, train = Transformer(rngs=nnx.Rngs(0)), tokens(24, remainder, 0)
    task = ody.nnx_task(model, lambda model, batch: mean_loss(model, batch))
    counts = []
    for valid in (None, ody.ArrayDataset(tokens(8, remainder, 1), BATCH)):
        Transformer.traced = 0
        jax.clear_caches()
        data = ody.ArrayDataset(train, BATCH, shuffle=True)
        ody.fit(task, optax.adamw, data, valid, epochs=1, learning_rate=RATE, writers=[])
        counts.append(Transformer.traced)
    return counts[0], counts[1] - counts[0]


def main() -> None:
    args = arguments(__doc__ or "")
    ratios: dict[str, Ratio] = {}
    rounds = 1 if args.quick else 5
    with tempfile.TemporaryDirectory() as folder:
        # What is installed has its bytecode; a checkout need not have it.
        bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        imports = import_times(bytecode, 2 if args.quick else 10)
        times = digits_times(bytecode, 1 if args.quick else 7)
    show_times("imports", imports)
    for name in ("odyssey_jax", "all of them"):
        ratios[f"import of {name} / the libraries"] = ratio(imports, name, "jax, optax, nnx", 1.15)
    show_times("the digits, from the start to the first epoch's end", times)
    ratios["digits, fit / bare"] = ratio(times, "fit", "bare", 1.3)
    second = ratio(times, "fit, kept", "fit, to be kept", 0.5)
    ratios["digits, second start / first"] = second
    # Compiling takes most of a minute: --quick leaves out what is compiled once more.
    for remainder, bound in ((0, 1.3), (3, 1.5))[: 1 if args.quick else 2]:
        times = transformer_times(remainder, rounds)
        show_times("NNX transformer, cold start", times)
        hand, ours = times
        ratios[f"{ours} / by hand"] = ratio(times, ours, hand, bound)
    for count in () if args.quick else (200, 600):
        times = leaf_times(count, 3)
        show_times("many leaves, cold start", times)
        bare, ours = times
        ratios[f"{ours} / bare scan"] = ratio(times, ours, bare, 1.6)
    training, evaluation = model_traces(0)
    ratios["the model's code runs in training"] = Ratio([training], 3)
    ratios["the model's code runs in evaluation"] = Ratio([evaluation], 2)
    show_ratios(ratios)
    write_json(args.json, ratios)


if __name__ == "__main__":
    main()
