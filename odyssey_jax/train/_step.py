"""One update: the gradient, the optimizer, the new state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import GradientTransformation

from odyssey_jax._types import Batch, Outputs, PyTree, ScheduleFn, TrainState
from odyssey_jax.transforms import (
    LossScale,
    hyperparams_in_force,
    scale_of_loss,
    skipped_by_scale,
    skipped_updates,
    unscaled,
)

OptimizerLike = GradientTransformation | Callable[[Any], GradientTransformation]


def make_optimizer(
    optimizer: OptimizerLike,
    learning_rate: ScheduleFn | None = None,
    clip_norm: float | None = None,
    accumulate_steps: int = 1,
    loss_scale: LossScale | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Put the optimizer together: learning rate, clipping, accumulation and loss scale.

    Args:
        optimizer: A transformation, or a function that makes one of a schedule
            (`optax.adamw`, or `lambda lr: optax.chain(..., optax.sgd(lr))`).
        learning_rate: The schedule for such a function, or None.
        clip_norm: The largest global norm of a gradient; a larger one is scaled down to it,
            after accumulation. None does not clip.
        accumulate_steps: Train steps whose mean gradient makes one update.
        loss_scale: From `loss_scale`, for half precision; None scales nothing.

    Returns:
        The whole transformation.
    """
    made = optimizer if isinstance(optimizer, GradientTransformation) else optimizer(learning_rate)
    if clip_norm is not None:
        made = optax.chain(optax.clip_by_global_norm(clip_norm), made)
    if accumulate_steps > 1:
        made = optax.MultiSteps(made, accumulate_steps).gradient_transformation()
    if loss_scale is not None:
        made = loss_scale.wrap(made)
    return optax.with_extra_args_support(made)


def is_transformation(optimizer: Any) -> bool:
    """Return whether it is ready to use, rather than a function of a learning rate."""
    return isinstance(optimizer, GradientTransformation)


def logged_hyperparams(
    schedule: ScheduleFn | None, state: TrainState, step: jax.Array, accumulate_steps: int
) -> dict[str, jax.Array]:
    """Return what was in force in the last of `step` train steps, and what was skipped so far."""
    rate = None
    if schedule is not None:
        # What a loss scale skips, the optimizer does not count.
        taken = step - skipped_by_scale(state.opt_state)
        update = jnp.maximum(taken - 1, 0) // accumulate_steps
        rate = jnp.asarray(schedule(update), jnp.float32)
    return hyperparams_in_force(state.opt_state, rate) | skipped_updates(state.opt_state)


def train_step(
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformationExtraArgs,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
) -> tuple[TrainState, Outputs]:
    """Make one train step.

    Args:
        loss: As in `Task.loss`.
        optimizer: As `make_optimizer` puts it together.
        state: The train state before.
        batch: What the loss takes.
        key: Typed PRNG key of this step.

    Returns:
        The train state after, with dtypes as before, and the loss's outputs with "loss",
        "weight" (the number of examples, int32) and, as float32 scalars, the norms
        "grad_norm", "update_norm", "param_norm" and "update_ratio" (the update's over the
        parameters') among them. What a compiled program doesn't use, it doesn't compute.
    """
    scale = scale_of_loss(state.opt_state)

    def scaled(*args: Any) -> tuple[jax.Array, Any]:
        value, aux = loss(*args)
        return (value if scale is None else value * scale), (value, aux)

    gradient = jax.value_and_grad(scaled, has_aux=True)
    (_, (value, aux)), grads = gradient(state.params, state.model_state, batch, key)
    model_state, outputs = aux
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, value=value)
    params = optax.apply_updates(state.params, updates)
    if scale is not None:
        grads, outputs = unscaled(grads, scale), {"loss_scale": scale, **outputs}
    outputs = {**norms(state.params, grads, updates), **outputs}
    state = state._replace(params=params, model_state=model_state, opt_state=opt_state)
    return state, weighted(outputs, batch, loss=value)


def norms(params: PyTree, grads: PyTree, updates: PyTree) -> dict[str, jax.Array]:
    """Return the global norms of a train step; an output of the user's own may replace one.

    Args:
        params: The parameters before.
        grads: The gradient, before clipping and accumulation.
        updates: What is added to the parameters.

    Returns:
        "grad_norm", "update_norm", "param_norm" and "update_ratio", float32 scalars.
    """
    trees = {"grad_norm": grads, "update_norm": updates, "param_norm": params}
    found = {name: _norm(tree) for name, tree in trees.items()}
    # Parameters that are all 0 have no ratio: the first update is infinitely more.
    return found | {"update_ratio": found["update_norm"] / found["param_norm"]}


@jax.jit  # many small operations a leaf: traced once for the three of them
def _norm(tree: PyTree) -> jax.Array:
    return jnp.asarray(optax.tree.norm(tree), jnp.float32)


def weighted(outputs: Outputs, batch: Batch, **more: jax.Array) -> dict[str, Any]:
    """Add to a batch's outputs how many examples it stands for: a smaller batch weighs less.

    A mask among the outputs says which examples count; a weight of the user's own is left alone.
    """
    if "mask" in outputs:
        examples = jnp.sum(outputs["mask"], dtype=jnp.int32)
    else:
        examples = jnp.asarray(jax.tree.leaves(batch)[0].shape[0], jnp.int32)
    return {"weight": examples, **outputs, **more}
