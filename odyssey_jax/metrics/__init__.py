"""Metrics: values that start empty, observe a batch, merge, and compute.

A metric is a pytree with `empty()`, `from_model_output(**outputs)`, `merge(other)` and
`compute()`, as clu.metrics and metrax have them; a metric class of theirs stands wherever an
instance of ours does. `empty`, `observe` and `compute` are how a training loop uses either.
A metric whose `mode` is "min" or "max" says so to the callbacks that monitor it.
"""

from odyssey_jax.metrics._classification import Accuracy as Accuracy
from odyssey_jax.metrics._classification import ConfusionMatrix as ConfusionMatrix
from odyssey_jax.metrics._mean import Mean as Mean
from odyssey_jax.metrics._metric import Metric as Metric
from odyssey_jax.metrics._metric import compute as compute
from odyssey_jax.metrics._metric import empty as empty
from odyssey_jax.metrics._metric import metric_modes as metric_modes
from odyssey_jax.metrics._metric import observe as observe
