"""How validation data is measured: the part of an epoch that train steps know nothing of."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from odyssey_jax._apply_if import apply_if
from odyssey_jax._types import Batch, PyTree, Told, TrainState, asks_for, real_dtype, told
from odyssey_jax.callbacks import When
from odyssey_jax.data import IndexedSource, transform_of
from odyssey_jax.parallel import Placement
from odyssey_jax.train._carry import Carry, evaluation_key
from odyssey_jax.train._convolutions import for_loops, slow_in_loops
from odyssey_jax.train._evaluation import Cadences, EvaluationOptions, holds_in, prefix_of
from odyssey_jax.train._metric_set import MetricSet
from odyssey_jax.train._step import weighted
from odyssey_jax.train._transformed import transformed
from odyssey_jax.train._user_functions import ByValue, Traced


@dataclasses.dataclass(frozen=True, eq=False)
class Validation(ByValue):
    """The static part of how validation data is measured, and its functions.

    Attributes:
        evaluate: As in `Task.evaluate`.
        metrics: Of the validation data.
        evaluations: How sets are measured that have a way of their own, by their names.
        columns: Names of what the host measures beside, and when; both of `make_loop`.
        placement: Where batches and the train state lie.
    """

    evaluate: Callable[..., Any]
    metrics: MetricSet
    evaluations: tuple[tuple[str, EvaluationOptions], ...]
    columns: tuple[tuple[str, When], ...]
    placement: Placement

    def evaluation(self, name: str) -> EvaluationOptions:
        """Return how a set of validation data is measured."""
        return dict(self.evaluations).get(name, EvaluationOptions())

    def metrics_of(self, name: str) -> MetricSet:
        """Return the metrics of a set of validation data."""
        return self.evaluation(name).metrics or self.metrics

    @functools.cached_property
    def cadences(self) -> Cadences:
        """When what is measured, of all that is not in every epoch."""
        pairs = ((prefix_of(name), how.every) for name, how in self.evaluations)
        sets = tuple((prefix, every) for prefix, every in pairs if every is not None)
        return Cadences(sets + self.columns)

    def due(self, epoch: Any, before: int) -> dict[str, Any]:
        """Return whether each that has a cadence is measured so many epochs before this one."""
        return {name: holds_in(when, epoch - before) for name, when in self.cadences.sets}

    def columns_due(self, epoch: int) -> list[str]:
        """Return the columns that the host measures at the end of an epoch."""
        return [name for name, when in self.columns if holds_in(when, epoch)]

    @functools.cached_property
    def _traced_evaluate(self) -> Traced:
        return Traced(self.placement.wrapped(self.evaluate))

    def where_validated(self, carry: Carry, total_steps: Any) -> Told:
        """Return what the validation of a carry's state is told."""
        draws = "key" in asks_for(self.evaluate)
        key = evaluation_key(carry.key) if draws else carry.key
        return Told(key, carry.clock.step, total_steps)

    def validate_block(
        self,
        states: PyTree,
        state: TrainState,
        batch: Batch,
        index: Any,
        where: Told,
        name: str = "",
    ) -> PyTree:
        """Take the validation metrics past a batch.

        Args:
            states: The metrics' states.
            state: `TrainState.for_evaluation`.
            batch: The batch.
            index: Int32 scalar, its place in the pass.
            where: From `where_validated`.
            name: The set's.
        """
        return self.metrics_of(name).observe(states, self._evaluated(state, batch, index, where))

    def empty_validation(
        self, state: TrainState, batch: Batch, where: Told, name: str = ""
    ) -> PyTree:
        """Return the validation metrics before any batch, for a batch like this one."""
        outputs = jax.eval_shape(self._evaluated, state, batch, 0, where)
        return self.metrics_of(name).empty(outputs)

    def empty_pass(
        self, state: TrainState, data: IndexedSource, where: Told, name: str = ""
    ) -> PyTree:
        """Return the validation metrics before any batch of a set."""
        first = jax.eval_shape(
            lambda data: transformed(transform_of(data), data.batch(None, 0), None), data
        )
        return self.empty_validation(state, first, where, name)

    def validate(
        self, state: TrainState, data: IndexedSource, where: Told, name: str, epoch: Any
    ) -> PyTree:
        """Return a set's metrics' states: over a pass where it is due, else before any batch.

        Args:
            state: `TrainState.for_evaluation`.
            data: The set.
            where: From `where_validated`.
            name: The set's.
            epoch: Int32 scalar, the epoch that ends.
        """
        make = lambda _: self.validate_pass(state, data, where, name)
        due = self.evaluation(name).is_due(epoch)
        if due is True:
            return make(None)
        # On the clock alone, which a population shares: what is not due is not computed.
        return apply_if(due, make, self.empty_pass(state, data, where, name))

    def _evaluated(self, state: TrainState, batch: Batch, index: Any, where: Told) -> Any:
        return weighted(self.outputs(state, batch, index, where, in_loop=True), batch)

    def outputs(
        self, state: TrainState, batch: Batch, index: Any, where: Told, in_loop: bool = False
    ) -> Any:
        """Return what the task makes of a batch in evaluation.

        Args:
            state: `TrainState.for_evaluation`.
            batch: The batch.
            index: Int32 scalar, its place in the pass.
            where: From `where_validated`.
            in_loop: Whether this is within a loop, where XLA takes long for convolutions.
        """
        traced = self._traced_evaluate
        if "key" in traced.asks_for:
            # Each batch has noise of its own, and the same in every epoch.
            where = dataclasses.replace(where, key=jax.random.fold_in(where.key, index))
        more = told(traced, where)
        args = (state.params, state.model_state, batch)
        evaluate = lambda *args: traced(*args, **more)
        if in_loop and slow_in_loops(evaluate, *args):
            evaluate = for_loops(evaluate)
        return evaluate(*args)

    def validate_pass(
        self, state: TrainState, data: IndexedSource, where: Told, name: str = ""
    ) -> PyTree:
        """Make one pass over validation data, in its own order; return the metrics' states.

        A smaller last batch weighs less.
        """
        laid_out = self.placement.batch
        batch_of = lambda batch: transformed(transform_of(data), laid_out(batch), None)

        def step(index: Any, states: PyTree) -> PyTree:
            batch = batch_of(data.batch(None, index))
            return self.validate_block(states, state, batch, index, where, name)

        full, remainder = self.evaluation(name).cut(data)
        states = self.empty_pass(state, data, where, name)
        states = lax.fori_loop(0, full, step, states)
        if not remainder:
            return states
        last = batch_of(data.last_batch(None))
        return self.validate_block(states, state, last, full, where, name)

    def measured(self, validated: Mapping[str, PyTree], epoch: Any = None) -> dict[str, Any]:
        """Return the metrics, "valid/<name>", or "valid/<set>/<name>" where there are several.

        Args:
            validated: The validation metrics' states of each set.
            epoch: Int32 scalar, the epoch that ends: sets that are not due then are NaN. None is
                outside of the epochs, where all are measured.
        """
        values: dict[str, Any] = {}
        for name, states in validated.items():
            found = under(prefix_of(name), self.metrics_of(name).compute(states))
            due = self.evaluation(name).is_due(epoch)
            values |= found if due is True else {k: _or_nan(due, x) for k, x in found.items()}
        return values


def as_sets(valid: Any) -> dict[str, Any]:
    """Return the sets of validation data by name; a single one's is ""."""
    if valid is None:
        return {}
    return dict(valid) if isinstance(valid, Mapping) else {"": valid}


def under(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return names with a prefix; a metric whose value is itself a mapping becomes several."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        named |= under(f"{prefix}/{name}", value) if nested else {f"{prefix}/{name}": value}
    return named


def _or_nan(due: Any, value: Any) -> jax.Array:
    """Return a metric where it was measured, and else NaN; a scalar of integers as floats.

    An array of integers, such as a table of counts, is that of no example: the host knows by the
    cadence that it was not measured.
    """
    x = jnp.asarray(value)
    x = x.astype(real_dtype(x)) if x.ndim == 0 else x
    return jnp.where(due, x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.inexact) else x
