"""Metrics of a model over a whole data set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import lax

from odyssey_jax import metrics as metrics_lib
from odyssey_jax._types import Task, TrainState
from odyssey_jax.data import ArrayDataset
from odyssey_jax.train._metric_set import MetricSet
from odyssey_jax.train._train_step import weighted


def evaluate_pass(
    evaluate: Callable[..., Any], metrics: MetricSet, state: TrainState, data: ArrayDataset
) -> dict[str, Any]:
    """Makes one pass over the data, in its own order; the last, smaller batch weighs less.

    Args:
        evaluate: as in `Task.evaluate`.
        metrics: the metrics to compute.
        state: the train state to evaluate.
        data: the data; whether it is shuffled makes no difference here.

    Returns:
        Name to value.
    """

    def outputs_of(batch):
        return weighted(evaluate(state.params, state.model_state, batch), batch)

    def step(index, states):
        return metrics.observe(states, outputs_of(data.batch(None, index)))

    states = metrics.empty(jax.eval_shape(lambda: outputs_of(data.batch(None, 0))))
    states = lax.fori_loop(0, data.full_batches, step, states)
    if data.remainder:
        states = metrics.observe(states, outputs_of(data.last_batch(None)))
    return metrics_lib.compute(states)


@functools.partial(jax.jit, static_argnames=("evaluate", "metrics"))
def _evaluate_compiled(evaluate, metrics, state, data):
    return evaluate_pass(evaluate, metrics, state, data)


def evaluate(
    task: Task,
    state: TrainState,
    data: ArrayDataset,
    metrics: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluates a train state on data that it was not trained on, in one compiled program.

    Args:
        task: the task that the state belongs to.
        state: the train state, such as `FitResult.state`.
        data: the data; every example counts once.
        metrics: name to metric, beside the loss.

    Returns:
        Name to value: "loss" and each of the metrics.

    Example:
        >>> import jax.numpy as jnp, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.array([1.0, 2.0, 3.0]), batch_size=2)
        >>> float(ody.evaluate(task, ody.TrainState(jnp.float32(2.0)), data)["loss"])
        0.6666666865348816
    """
    return _evaluate_compiled(task.evaluate, MetricSet.with_loss(metrics), state, data)
