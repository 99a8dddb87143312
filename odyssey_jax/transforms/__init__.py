"""Transforms: what a chain of Optax's is given beside the rate, scales that something else sets."""

from odyssey_jax.transforms._in_force import hyperparams_in_force as hyperparams_in_force
from odyssey_jax.transforms._layers import ScaleByLayerState as ScaleByLayerState
from odyssey_jax.transforms._layers import layer_labels as layer_labels
from odyssey_jax.transforms._layers import scale_by_layer as scale_by_layer
from odyssey_jax.transforms._scales import ScaleByCallbackState as ScaleByCallbackState
from odyssey_jax.transforms._scales import ScaleByMetricState as ScaleByMetricState
from odyssey_jax.transforms._scales import check_rule as check_rule
from odyssey_jax.transforms._scales import has_scale as has_scale
from odyssey_jax.transforms._scales import scale_by_callback as scale_by_callback
from odyssey_jax.transforms._scales import scale_by_metric as scale_by_metric
from odyssey_jax.transforms._scales import with_scale as with_scale
