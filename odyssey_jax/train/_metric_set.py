"""A set of named metrics that a compiled program can be keyed by."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax import metrics as metrics_lib
from odyssey_jax._types import Outputs, PyTree
from odyssey_jax.train._passed_on import jaxpr_of


@dataclasses.dataclass(frozen=True, eq=False)
class MetricSet:
    """Names and metrics, compared by value: metric instances hold arrays, which are not.

    Attributes:
        metrics: Name to metric, an instance of ours or a class of clu's or metrax's.
    """

    metrics: Mapping[str, Any]

    @classmethod
    def with_loss(cls, metrics: Mapping[str, Any] | None) -> MetricSet:
        """Put the mean loss in front; a metric named "loss" replaces it."""
        given = {name: metrics_lib.as_metric(x) for name, x in (metrics or {}).items()}
        return cls({"loss": metrics_lib.Mean("loss"), **given})

    def empty(self, outputs: Outputs) -> PyTree:
        """Return the states before any batch."""
        return metrics_lib.empty(self.metrics, outputs)

    def observe(self, states: PyTree, outputs: Outputs) -> PyTree:
        """Take the states past a batch."""
        return metrics_lib.observe(self.metrics, states, outputs)

    def reads(self, states: PyTree, outputs: Outputs) -> frozenset[str]:
        """Return the names of the outputs that `observe` uses, as its jaxpr has it."""
        traced = jaxpr_of(self.observe, states, outputs)
        used = {id(x) for x in (*traced.outvars, *(x for eqn in traced.eqns for x in eqn.invars))}
        names = [path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(outputs)]
        given = traced.invars[len(jax.tree.leaves(states)) :]
        return frozenset(name for name, x in zip(names, given, strict=True) if id(x) in used)

    def restarted(self, states: PyTree) -> PyTree:
        """Return the states before any batch, in the form of these: no outputs are needed."""

        def like(x: Any, state: jax.Array) -> jax.Array:
            x = jnp.asarray(x, state.dtype)
            return jnp.broadcast_to(x, state.shape) if x.ndim == 0 else x

        empty = {name: metric.empty() for name, metric in self.metrics.items()}
        return jax.tree.map(like, empty, dict(states))

    def compute(self, states: PyTree) -> dict[str, Any]:
        """Return the metrics' values by name."""
        return metrics_lib.compute(states)

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        # Once: a compiled program is looked up by it at every call.
        return tuple((name, _key(metric)) for name, metric in self.metrics.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MetricSet) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _key(metric: Any) -> Any:
    if inspect.isclass(metric):
        return metric
    leaves, structure = jax.tree.flatten(metric)
    arrays = [np.asarray(leaf) for leaf in leaves]
    # The class too: JAX takes two registered dataclasses of the same fields for one structure.
    return type(metric), structure, tuple((a.shape, a.dtype.str, a.tobytes()) for a in arrays)
