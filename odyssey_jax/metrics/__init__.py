"""Metrics: values that start empty, observe a batch, merge, and compute.

A metric is a pytree with `empty()`, `from_model_output(**outputs)`, `merge(other)` and
`compute()`, as clu.metrics and metrax have them; a metric class of theirs stands wherever an
instance of ours does.  `empty`, `observe` and `compute` are how a training loop uses either.
"""

from odyssey_jax.metrics._accuracy import Accuracy as Accuracy
from odyssey_jax.metrics._confusion import ConfusionMatrix as ConfusionMatrix
from odyssey_jax.metrics._mean import Mean as Mean
from odyssey_jax.metrics._observe import Metric as Metric
from odyssey_jax.metrics._observe import compute as compute
from odyssey_jax.metrics._observe import empty as empty
from odyssey_jax.metrics._observe import observe as observe

__all__ = ["Accuracy", "ConfusionMatrix", "Mean", "Metric", "compute", "empty", "observe"]
