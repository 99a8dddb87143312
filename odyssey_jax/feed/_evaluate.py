"""Evaluation of a train state, over data on the device or on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import jax
import numpy as np
import optax

from odyssey_jax._checks import check_count
from odyssey_jax._types import (
    MetricLike,
    PyTree,
    Task,
    Told,
    TrainState,
)
from odyssey_jax.data import HostSource, IndexedSource, Source, as_source
from odyssey_jax.feed._chunks import Chunk, chunk_size, int32
from odyssey_jax.feed._driven import PREFETCH_BYTES, observe
from odyssey_jax.feed._feed import Feed
from odyssey_jax.parallel import Placement, placement_of
from odyssey_jax.train import Loop, compiled, evaluation_key, make_loop


@jax.transfer_guard("allow")
def evaluate(
    task: Task[Any],
    state: TrainState,
    data: Any,
    metrics: Mapping[str, MetricLike] | None = None,
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    step: int | None = None,
    total_steps: int | None = None,
    placement: Placement | None = None,
) -> dict[str, Any]:
    """Evaluate a train state on data that it was not trained on.

    Args:
        task: The task that the state belongs to.
        state: The train state, such as `FitResult.state`; the average's parameters, if it holds
            one.
        data: The data, of any kind that `fit` takes; every example of a pass counts once.
        metrics: Name to metric, beside the loss.
        batch_size: Examples in a batch, where the data are plain arrays.
        steps: Batches to evaluate on, of data that is read on the host; None is a pass.
        seed: The run's, for a model or a loss that draws: each batch is then given the noise
            that it has in the validation of `fit(seed=seed)`.
        step: The train steps that the state has done, for a loss that asks for its step.
        total_steps: The train steps of the whole run, for a loss that asks for its progress.
        placement: Where batches and the state lie on several devices, as for `fit`; None is where
            the state lies, with each batch cut along the mesh's axis where it has only one.

    Returns:
        Name to value: "loss" and each of the metrics.

    Raises:
        TypeError: If the data is of no such kind.
        ValueError: If `batch_size` or `steps` is missing, or has no effect; or the loss asks for
            a step or a progress that is not given.

    Example:
        >>> import jax.numpy as jnp, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = jnp.array([1.0, 2.0, 3.0])
        >>> found = ody.evaluate(task, ody.TrainState(jnp.float32(2.0)), data, batch_size=2)
        >>> float(found["loss"])
        0.6666666865348816
    """
    source, steps = source_to_read("evaluate", data, batch_size, steps)
    loop, state = placed_for_evaluation(task, state, placement, metrics)
    where = loop.placement.put(where_evaluated(seed, step, total_steps))
    if isinstance(source, IndexedSource):
        return _evaluate_compiled(loop, state, loop.placement.put(source), where)
    assert isinstance(source, HostSource)
    return _compute(loop, _read(loop, state, source, steps, where))


def placed_for_evaluation(
    task: Task,
    state: TrainState,
    placement: Placement | None,
    metrics: Mapping[str, MetricLike] | None = None,
) -> tuple[Loop, TrainState]:
    """Return a loop to evaluate with, and the state where its placement has it."""
    state = state.for_evaluation._replace(opt_state=None, average=None)
    placement = placement_of(state) if placement is None else placement
    loop = make_loop(task, NO_OPTIMIZER, metrics=metrics, placement=placement)
    return loop, loop.placement.place(state, state)


def where_evaluated(seed: int, step: int | None, total_steps: int | None) -> Told:
    """Return what a loss is told outside of a run, as far as it is known."""
    number = lambda x: None if x is None else np.int32(x)
    return Told(evaluation_key(jax.random.key(seed)), number(step), number(total_steps))


def source_to_read(
    what: str, data: Any, batch_size: int | None, steps: Any
) -> tuple[Source, int | None]:
    """Return data as a source, and how many batches of it to read; None is a pass.

    Args:
        what: The function that reads it, for errors.
        data: Of any kind that `fit` takes.
        batch_size: Examples in a batch, where the data are plain arrays.
        steps: As given.
    """
    source = as_source("data", data, batch_size=batch_size)
    if isinstance(source, IndexedSource):
        if steps is not None:
            raise ValueError(f"steps={steps} has no effect on data that lies on the device.")
        return source, None
    if jax.process_count() > 1:
        raise ValueError(
            f"{source!r} is read in shares by the {jax.process_count()} processes, and {what} "
            "would see one of them: pass arrays with batch_size=, or validate on it in fit."
        )
    if steps is not None:
        steps = check_count("steps", steps, 1)
    elif source.steps_per_pass is None:
        raise ValueError(f"steps must be given: how many batches {source!r} has is not known.")
    return source, steps


def chunks_read(source: HostSource, steps: int | None, put: Any) -> Generator[Chunk]:
    """Yield the batches of a pass, or of so many steps, each chunk until the next is asked for."""
    size, step = chunk_size(source.spec, PREFETCH_BYTES), 0
    feed = Feed(source, put, size=size, steps=steps, passes=False)
    with contextlib.closing(feed):
        while (chunk := feed.chunk(step)) is not None:
            yield chunk
            step = chunk.end
            feed.drop(step)


def _read(
    loop: Loop, state: TrainState, source: HostSource, steps: int | None, where: Told
) -> PyTree:
    """Return the metrics' states over a pass, or a part of it."""
    states = None
    with contextlib.closing(chunks_read(source, steps, loop.placement.stacked)) as chunks:
        for chunk in chunks:
            span = int32([chunk.first, chunk.end])
            states = observe(loop, "", states, state, where, chunk.batches, span)
    return states


NO_OPTIMIZER = optax.identity()  # one object, so that equal loops share a program


@compiled(static_argnums=0)
def _evaluate_compiled(
    loop: Loop, state: TrainState, data: IndexedSource, where: Told
) -> dict[str, Any]:
    return loop.metrics.compute(loop.validate_pass(state, data, where))


@compiled(static_argnums=0)
def _compute(loop: Loop, states: PyTree) -> dict[str, Any]:
    return loop.metrics.compute(states)
