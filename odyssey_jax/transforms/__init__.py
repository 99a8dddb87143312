r"""Transforms: what a chain of Optax's is given beside the rate, scales that something else sets.

Most of what else is scheduled, Optax does by itself, and a schedule goes wherever a number does.
`fit` logs what is in force: the learning rate, whatever `optax.inject_hyperparams` schedules, and
each group's or layer's rate by its name.

Example:
    >>> import jax.numpy as jnp, optax, odyssey_jax as ody
    >>> params = {"encoder": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}}
    >>> rate = ody.warmup_cosine(0.1, 10, 100)

    Momentum that falls while the rate rises:

    >>> sgd = optax.inject_hyperparams(optax.sgd)(
    ...     ody.one_cycle(0.1, 100), momentum=ody.schedules.one_cycle_momentum(100))

    AdamW's decay goes with the rate already, which is what it is multiplied by. One that is in
    proportion to the rate besides, and one that does not go with it at all:

    >>> adamw = optax.inject_hyperparams(optax.adamw)(rate, weight_decay=0.2 * rate)
    >>> apart = optax.chain(optax.adam(rate), optax.add_decayed_weights(-1e-4))

    A rate for each group of parameters, by their labels; without a rate a group is frozen:

    >>> groups = {"encoder": ody.schedules.scale(rate, 0.1), "head": rate}
    >>> by_group = optax.partition(
    ...     {name: optax.inject_hyperparams(optax.adamw)(own) for name, own in groups.items()},
    ...     {"encoder": "encoder", "head": "head"})
    >>> sorted(ody.transforms.hyperparams_in_force(by_group.init(params)))
    ['learning_rate/encoder', 'learning_rate/head']

    No decay of what has fewer than two axes:

    >>> masked = optax.adamw(rate, mask=lambda params: {
    ...     part: {name: x.ndim > 1 for name, x in own.items()} for part, own in params.items()})

    Smaller rates nearer to the input:

    >>> layered = optax.chain(
    ...     optax.adamw(rate), ody.transforms.scale_by_layer(0.5, ["encoder", "head"])
    ... )
    >>> updates, _ = layered.update(params, layered.init(params), params)

What `optax.inject_hyperparams` is given as a number lives in the optimizer's state, so a resumed
run goes on with the number that it was begun with; a schedule does not, and another one applies.
In `fit`, each of these is `optimizer=lambda rate: ...`, with `learning_rate=rate` beside it, and
then the learning rate is recorded and compared on resume.
"""

from odyssey_jax.transforms._accumulate import AccumulateState as AccumulateState
from odyssey_jax.transforms._accumulate import accumulate as accumulate
from odyssey_jax.transforms._accumulate import accumulates as accumulates
from odyssey_jax.transforms._by_path import FreezeState as FreezeState
from odyssey_jax.transforms._by_path import ScaleByLayerState as ScaleByLayerState
from odyssey_jax.transforms._by_path import divided as divided
from odyssey_jax.transforms._by_path import freeze as freeze
from odyssey_jax.transforms._by_path import frozen_names as frozen_names
from odyssey_jax.transforms._by_path import layer_labels as layer_labels
from odyssey_jax.transforms._by_path import scale_by_layer as scale_by_layer
from odyssey_jax.transforms._by_path import state_of_frozen as state_of_frozen
from odyssey_jax.transforms._by_path import united as united
from odyssey_jax.transforms._by_path import with_held_state as with_held_state
from odyssey_jax.transforms._parts import CountedState as CountedState
from odyssey_jax.transforms._parts import by_part as by_part
from odyssey_jax.transforms._parts import check_parts as check_parts
from odyssey_jax.transforms._parts import counted as counted
from odyssey_jax.transforms._scales import LossScale as LossScale
from odyssey_jax.transforms._scales import LossScaleState as LossScaleState
from odyssey_jax.transforms._scales import ScaleByCallbackState as ScaleByCallbackState
from odyssey_jax.transforms._scales import ScaleByMetricState as ScaleByMetricState
from odyssey_jax.transforms._scales import check_rule as check_rule
from odyssey_jax.transforms._scales import has_scale as has_scale
from odyssey_jax.transforms._scales import loss_scale as loss_scale
from odyssey_jax.transforms._scales import scale_by_callback as scale_by_callback
from odyssey_jax.transforms._scales import scale_by_metric as scale_by_metric
from odyssey_jax.transforms._scales import scale_of as scale_of
from odyssey_jax.transforms._scales import scale_of_loss as scale_of_loss
from odyssey_jax.transforms._scales import skipped_by_scale as skipped_by_scale
from odyssey_jax.transforms._scales import unscaled as unscaled
from odyssey_jax.transforms._scales import with_scale as with_scale
from odyssey_jax.transforms._scales import with_scale_moved as with_scale_moved
from odyssey_jax.transforms._skip import SkipNotFiniteState as SkipNotFiniteState
from odyssey_jax.transforms._skip import SkipSpikesState as SkipSpikesState
from odyssey_jax.transforms._skip import all_finite as all_finite
from odyssey_jax.transforms._skip import skip_not_finite as skip_not_finite
from odyssey_jax.transforms._skip import skip_spikes as skip_spikes
from odyssey_jax.transforms._state import hyperparams_in_force as hyperparams_in_force
from odyssey_jax.transforms._state import skipped_by_schedule as skipped_by_schedule
from odyssey_jax.transforms._state import skipped_updates as skipped_updates
from odyssey_jax.transforms._state import updates_done as updates_done
from odyssey_jax.transforms._state import with_counts_of as with_counts_of
