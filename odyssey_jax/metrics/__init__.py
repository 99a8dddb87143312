"""Metrics: values that start empty, observe a batch, merge, and compute.

A metric is a pytree with `empty()`, `from_model_output(**outputs)`, `merge(other)` and
`compute()`, as clu.metrics and metrax have them; a metric class of theirs stands wherever an
instance of ours does. `empty`, `observe` and `compute` are how a training loop uses either.

An instance of `flax.nnx.metrics` (`Accuracy`, `Average`, `Welford`, a `MultiMetric`, or one of your
own) is taken too: its `update` is given the outputs, its own copy starts empty, and the instance
stays as it is. It counts as NNX has it: an `Average` of one number a batch gives a smaller last
batch as much weight as any other, where `Mean` weighs by examples.

A metric whose `mode` is "min" or "max" says so to the callbacks that monitor it.
"""

from odyssey_jax._types import MetricLike as MetricLike
from odyssey_jax.metrics._classification import Accuracy as Accuracy
from odyssey_jax.metrics._classification import ConfusionMatrix as ConfusionMatrix
from odyssey_jax.metrics._mean import Mean as Mean
from odyssey_jax.metrics._metric import Metric as Metric
from odyssey_jax.metrics._metric import compute as compute
from odyssey_jax.metrics._metric import empty as empty
from odyssey_jax.metrics._metric import metric_modes as metric_modes
from odyssey_jax.metrics._metric import observe as observe
from odyssey_jax.metrics._nnx import as_metric as as_metric
