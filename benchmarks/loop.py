"""The compiled loop against the bare program, a Python loop, and Flax's own documented loop.

``python -m benchmarks.loop [--quick] [--json FILE]``

One model (a 64-128-64-10 MLP), one data set (scikit-learn's digits, batches of 32 in a new
order each epoch), one optimizer (AdamW), the loss on the validation data after every epoch:

- bare: what an expert writes by hand in ``jax.lax`` for just that, at a constant rate, with
  neither callbacks nor history. It reaches the parameters that odyssey_jax reaches, which is
  checked before anything is timed.
- constant, schedule, full: ``run_compiled`` at a constant rate; with warm-up and cosine; with
  those, early stopping, best tracking and history. ``fit`` is the last one through ``fit``.
- python: a Python loop over a jitted, donated step; data, shuffle and batches on the device.
- nnx: the loop of Flax's NNX tutorial: ``nnx.jit``, ``nnx.Optimizer``, ``nnx.MultiMetric``.

Compilation is not in any of the times. Early stopping's own cost is that of many of its updates
in a compiled scan, less the scan without them, over a validation pass in a scan of passes: of
10,000 examples of 784 numbers through a 512-512-10 MLP, to which the bound applies. The digits'
180 validation examples, which take no time to speak of, are shown beside it.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
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
    Version,
    arguments,
    interleave,
    ratio,
    show_ratios,
    show_times,
    write_json,
)
from odyssey_jax._digits import MLP, load_digits, loss_fn
from odyssey_jax._types import Told
from odyssey_jax.train import Keys, fresh_copy, init_compiled

RATE, WARMUP_EPOCHS, RUN_EPOCHS = 3e-3, 3, 100
BATCH, HIDDEN = 32, (128, 64)
TRAIN, VALID, _ = load_digits(BATCH)
STEPS = TRAIN.steps_per_pass
ROOT = jax.random.key(0)
NEVER = 10**6  # a patience that never stops: every version does the same work


def adamw(rate: Any) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=1e-4)


def make_task() -> ody.Task:
    return ody.nnx_task(MLP(HIDDEN, 0.0, rngs=nnx.Rngs(0)), loss_fn)


TASK = make_task()
PARAMS, MODEL_STATE = TASK.init(ROOT)
CONSTANT = ody.constant(RATE)
SCHEDULE = ody.warmup_cosine(
    RATE, warmup_steps=WARMUP_EPOCHS * STEPS, total_steps=RUN_EPOCHS * STEPS
)
STOPPING = ody.early_stopping("valid/loss", NEVER)


def timed(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Seconds until the result is there, and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return time.perf_counter() - start, result


# The bare program.


def forward(params: Any, x: jax.Array) -> jax.Array:
    """The MLP, written out."""
    for index in range(len(HIDDEN)):
        layer = params["layers"][index]
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def mean_loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(forward(params, x), y).mean()


def bare_step(data: Any, carry: Any, index: jax.Array) -> tuple[Any, None]:
    """One update on the examples of these indices, and the sum of the losses."""
    params, opt_state, total = carry
    x, y = (
        data[name].at[index].get(mode="promise_in_bounds", unique_indices=True)
        for name in ("image", "label")
    )
    loss, grads = jax.value_and_grad(mean_loss)(params, x, y)
    updates, opt_state = adamw(RATE).update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, total + loss), None


def bare_validation(params: Any, data: Any) -> jax.Array:
    """The mean loss over the validation data, batch by batch."""
    shape = (VALID.full_batches, VALID.batch_size)
    batches = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), data)

    def add(total, batch):
        return total + mean_loss(params, batch["image"], batch["label"]), None

    return lax.scan(add, jnp.zeros(()), batches)[0] / len(batches["label"])


@functools.partial(jax.jit, donate_argnums=0)
def bare_run(carry: Any, train: Any, valid: Any, key: jax.Array, epochs: int) -> Any:
    """Trains: carry is (parameters, optimizer state, train loss, validation loss)."""
    examples = len(train["label"])

    def epoch(number, carry):
        order = jax.random.permutation(jax.random.fold_in(key, number), examples)
        batches = order[: STEPS * BATCH].reshape(STEPS, BATCH)
        inner = (carry[0], carry[1], jnp.zeros(()))
        step = functools.partial(bare_step, train)
        (params, opt_state, total), _ = lax.scan(step, inner, batches)
        return params, opt_state, total / STEPS, bare_validation(params, valid)

    return lax.fori_loop(0, epochs, epoch, carry)


def bare(epochs: int) -> tuple[float, Any]:
    params = fresh_copy(PARAMS)
    carry = (params, adamw(RATE).init(params), jnp.zeros(()), jnp.zeros(()))
    carry = jax.block_until_ready(carry)
    return timed(bare_run, carry, TRAIN.data, VALID.data, Keys.of(ROOT).shuffle, epochs)


# odyssey_jax.


def callbacks() -> ody.Callback:
    """All that the bare program does without, but the schedule."""
    return ody.chain(ody.callbacks.log(), STOPPING, ody.track_best("valid/loss"))


def compiled(schedule: Any, callbacks: Any) -> Callable[[int], tuple[float, Any]]:
    """A run through the public core."""
    loop = ody.train.make_loop(TASK, adamw, callbacks=callbacks, capacity=RUN_EPOCHS)
    inputs = ody.train.Inputs(TRAIN, VALID, schedule)

    def run(epochs: int) -> tuple[float, Any]:
        carry = fresh_copy(init_compiled(loop, ROOT, PARAMS, MODEL_STATE, inputs))
        jax.block_until_ready(carry)
        return timed(ody.train.run_compiled, loop, carry, inputs, epochs * STEPS)

    return run


def fitted(epochs: int) -> None:
    ody.fit(
        TASK,
        adamw,
        TRAIN,
        VALID,
        epochs=epochs,
        learning_rate=SCHEDULE,
        callbacks=ody.chain(STOPPING, ody.track_best("valid/loss")),
        writers=[],
    )


# Loops in Python.


@functools.partial(jax.jit, donate_argnums=0)
def python_step(carry: Any, train: Any, order: jax.Array, number: int) -> Any:
    index = lax.dynamic_slice_in_dim(order, number * BATCH, BATCH)
    return bare_step(train, carry, index)[0]


@jax.jit
def python_order(key: jax.Array, number: int) -> jax.Array:
    return jax.random.permutation(jax.random.fold_in(key, number), len(TRAIN))


python_validation = jax.jit(bare_validation)


def python_loop(epochs: int) -> float:
    """One dispatch a step, nothing read back before the end of an epoch."""
    params = fresh_copy(PARAMS)
    state = jax.block_until_ready((params, adamw(RATE).init(params)))
    key = Keys.of(ROOT).shuffle
    start = time.perf_counter()
    for epoch in range(epochs):
        order = python_order(key, epoch)
        carry = (*state, jnp.zeros(()))
        for number in range(STEPS):
            carry = python_step(carry, TRAIN.data, order, number)
        *state, total = carry
        valid = python_validation(state[0], VALID.data)
        _ = float(total) / STEPS, float(valid)
    return time.perf_counter() - start


@nnx.jit
def nnx_train_step(model: MLP, optimizer: nnx.Optimizer, metrics: nnx.MultiMetric, batch: Any):
    gradient = nnx.value_and_grad(loss_fn, has_aux=True)
    (loss, outputs), grads = gradient(model, batch)
    metrics.update(loss=loss, **outputs)
    optimizer.update(model, grads)


@nnx.jit
def nnx_eval_step(model: MLP, metrics: nnx.MultiMetric, batch: Any):
    loss, outputs = loss_fn(model, batch)
    metrics.update(loss=loss, **outputs)


def host_batches(data: ody.ArrayDataset, order: np.ndarray):
    """NumPy batches, as a data loader yields them."""
    arrays = {name: np.asarray(x) for name, x in data.data.items()}
    for start in range(0, len(order) - data.batch_size + 1, data.batch_size):
        rows = order[start : start + data.batch_size]
        yield {name: x[rows] for name, x in arrays.items()}


def nnx_loop(epochs: int) -> float:
    """The tutorial's loop: train, compute, reset, evaluate, compute, reset."""
    model = MLP(HIDDEN, 0.0, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, adamw(RATE), wrt=nnx.Param)
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
    random = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(epochs):
        model.train()
        for batch in host_batches(TRAIN, random.permutation(len(TRAIN))):
            nnx_train_step(model, optimizer, metrics, batch)
        _ = {name: float(value) for name, value in metrics.compute().items()}
        metrics.reset()
        model.eval()
        for batch in host_batches(VALID, np.arange(len(VALID))):
            nnx_eval_step(model, metrics, batch)
        _ = {name: float(value) for name, value in metrics.compute().items()}
        metrics.reset()
    return time.perf_counter() - start


# Early stopping alone.


@functools.partial(jax.jit, static_argnames="stopping")
def stopping_updates(losses: jax.Array, stopping: bool) -> Any:
    """One update for each loss, and what they asked for, merged; or all but that.

    The sort keeps XLA from making one tight loop of it all, which would not be what an update
    costs in a program with other work in it.
    """
    event = ody.Event({"valid/loss": jnp.zeros(())})

    def update(carry, loss):
        state, merged, epoch, other = carry
        if stopping:
            now = ody.Event({"valid/loss": loss}, ody.Clock(epoch, epoch))
            state, signal = STOPPING.update(state, now)
            merged = merged.merge(signal)
        return (state, merged, epoch + 1, jnp.sort(other + loss)), None

    state = STOPPING.init(event)
    first = (state, ody.Signal.none(), jnp.zeros((), jnp.int32), jnp.zeros(16))
    return lax.scan(update, first, losses)[0]


def stopping_alone(losses: jax.Array) -> float:
    """Seconds that one update adds."""
    seconds = [timed(stopping_updates, losses, stopping)[0] for stopping in (True, False)]
    return (seconds[0] - seconds[1]) / len(losses)


@functools.partial(jax.jit, static_argnames=("loop", "passes"))
def validation_passes(
    loop: ody.train.Loop, params: Any, data: ody.ArrayDataset, passes: int
) -> jax.Array:
    """Passes over the data, each on parameters that follow from the last: none is left out."""

    def one(_, carry):
        params, total = carry
        states = loop.validate_pass(ody.TrainState(params, {}), data, Told(jax.random.key(0)))
        loss = loop.metrics.compute(states)["loss"]
        return jax.tree.map(lambda p: p + 0 * loss, params), total + loss

    return lax.fori_loop(0, passes, one, (params, jnp.zeros(())))[1]


def wide_problem() -> tuple[Any, Any, ody.ArrayDataset]:
    """A task, its parameters, and data of the size of MNIST's test set."""
    sizes = (784, 512, 512, 10)
    keys = jax.random.split(ROOT, len(sizes))
    params = {
        f"layer_{i}": jax.random.normal(key, pair) / pair[0] ** 0.5
        for i, (key, pair) in enumerate(zip(keys, itertools.pairwise(sizes), strict=False))
    }

    def loss(params, batch):
        x = batch["image"]
        *hidden, last = params.values()
        for kernel in hidden:
            x = jax.nn.relu(x @ kernel)
        return optax.softmax_cross_entropy_with_integer_labels(x @ last, batch["label"]).mean()

    data = {"image": jax.random.normal(keys[-1], (10_000, 784)), "label": jnp.zeros(10_000, int)}
    return ody.pure_task(params, loss), params, ody.ArrayDataset(data, 1_000)


def stopping_versions(updates: int) -> dict[str, Version]:
    """Seconds for one update, and for one validation pass of either size."""
    losses = jax.random.uniform(ROOT, (updates,))
    wide_task, wide_params, wide_data = wide_problem()
    wide = (ody.train.make_loop(wide_task, adamw), wide_params, wide_data)
    digits = (ody.train.make_loop(TASK, adamw), PARAMS, VALID)
    return {
        "early stopping": lambda: stopping_alone(losses),
        "digits validation": lambda: timed(validation_passes, *digits, 100)[0] / 100,
        "10,000 x 784 validation": lambda: timed(validation_passes, *wide, 2)[0] / 2,
    }


def check_same() -> None:
    """The bare program trains what odyssey_jax trains."""
    params, _, _, loss = bare(RUN_EPOCHS)[1]
    carry = compiled(CONSTANT, None)(RUN_EPOCHS)[1]
    apart = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), params, carry.state.params)
    worst = float(max(jax.tree.leaves(apart)))
    print(
        f"after {RUN_EPOCHS} epochs: validation loss {float(loss):.6f} bare, "
        f"{float(carry.latest['valid/loss']):.6f} odyssey_jax; parameters differ by {worst:.1e}"
    )
    if worst > 1e-4:
        raise AssertionError("the bare program is not the training that odyssey_jax does")


def measure_overhead(epochs: int, rounds: int) -> dict[str, Ratio]:
    """The compiled versions among themselves."""
    runs = {
        "bare": bare,
        "constant": compiled(CONSTANT, None),
        "schedule": compiled(SCHEDULE, None),
        "full": compiled(SCHEDULE, callbacks()),
    }
    seconds = {name: lambda run=run: run(epochs)[0] for name, run in runs.items()}
    times = interleave(seconds, rounds, warmup=2)
    show_times(f"compiled, {epochs} epochs of {STEPS} steps", times)
    return {
        "full / bare": ratio(times, "full", "bare", 1.03),
        "schedule / constant": ratio(times, "schedule", "constant", 1.01),
    }


def measure_python(epochs: int, rounds: int) -> dict[str, Ratio]:
    """The hand-written Python loop over the full version of ours."""
    full = compiled(SCHEDULE, callbacks())
    versions: dict[str, Version] = {
        "full": lambda: full(epochs)[0],
        "fit": lambda: fitted(epochs),
        "python": lambda: python_loop(epochs),
    }
    times = interleave(versions, rounds, warmup=1)
    show_times(f"other ways, {epochs} epochs; fit with all of its set-up", times)
    return {"python / full": ratio(times, "python", "full", 1.4, "higher")}


def measure_nnx(epochs: int, rounds: int) -> dict[str, Ratio]:
    """The documented loop, which takes its time: fewer epochs of it."""
    full = compiled(SCHEDULE, callbacks())
    versions: dict[str, Version] = {
        "full": lambda: full(epochs)[0],
        "nnx": lambda: nnx_loop(epochs),
    }
    times = interleave(versions, rounds, warmup=1)
    show_times(f"Flax's documented loop, {epochs} epochs", times)
    return {"nnx / full": ratio(times, "nnx", "full", 10.0, "higher")}


def measure_stopping(rounds: int) -> dict[str, Ratio]:
    """Early stopping over validation, in percent."""
    times = interleave(stopping_versions(100_000), rounds)
    show_times("early stopping: one update, and one validation pass", times)
    times["one percent of it"] = [t / 100 for t in times["10,000 x 784 validation"]]
    return {
        "early stopping, % of validation": ratio(times, "early stopping", "one percent of it", 0.1)
    }


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    rounds = 10 if options.quick else 100
    check_same()
    ratios = measure_overhead(20, rounds)
    ratios |= measure_python(20, 5 if options.quick else 40)
    ratios |= measure_nnx(5, 3 if options.quick else 10)
    ratios |= measure_stopping(3 if options.quick else 10)
    show_ratios(ratios)
    write_json(options.json, ratios)


if __name__ == "__main__":
    main()
