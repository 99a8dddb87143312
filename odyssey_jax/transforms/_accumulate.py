"""Gradient accumulation: the mean over several train steps, weighted by their examples."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from odyssey_jax._opt_state import holds, with_named_args
from odyssey_jax._types import PyTree


class AccumulateState(NamedTuple):
    """The state of `accumulate`.

    Attributes:
        mini_step: int32 scalar, the gradients taken in since the last update.
        weight: float32 scalar, the sum of their weights.
        acc_grads: Their weighted mean, of at least 32 bits.
        inner_opt_state: The optimizer's own state.
    """

    mini_step: jax.Array
    weight: jax.Array
    acc_grads: PyTree
    inner_opt_state: PyTree


def accumulate(
    optimizer: optax.GradientTransformation, steps: int
) -> optax.GradientTransformationExtraArgs:
    r"""Update once every so many gradients, by their weighted mean.

    $$g = \frac{\sum_i w_i g_i}{\sum_i w_i}$$

    where the extra argument `weight` of `update` is $w_i$, by default 1: how many examples or
    tokens the mean gradient $g_i$ stands for. So microbatches that differ in it make the update
    of the one large batch. One of weight 0 is left out, whatever its gradient.

    Args:
        optimizer: What is updated by the mean.
        steps: Gradients to an update, at least 1.

    Returns:
        An Optax transformation; between its updates it returns zeros.

    Source:
        `optax.MultiSteps`, of which it is the weighted counterpart.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> optimizer = accumulate(optax.sgd(1.0), 2)
        >>> params = jnp.zeros(())
        >>> state = optimizer.init(params)
        >>> for gradient, weight in ((1.0, 3.0), (5.0, 1.0)):
        ...     update, state = optimizer.update(
        ...         jnp.float32(gradient), state, params, weight=weight)
        ...     print(float(update))
        0.0
        -2.0
    """
    inner = with_named_args(optimizer)

    def init(params: PyTree) -> AccumulateState:
        wide = lambda x: jnp.zeros(jnp.shape(x), jnp.promote_types(jnp.result_type(x), jnp.float32))
        zeros = jax.tree.map(wide, params)
        return AccumulateState(
            jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), zeros, inner.init(params)
        )

    def update(updates, state, params=None, *, weight=1.0, **extra):
        weight = jnp.asarray(weight, jnp.float32)
        total = state.weight + weight
        counts = weight > 0
        ratio = total / jnp.where(counts, weight, 1)

        def mean(so_far: jax.Array, new: jax.Array) -> jax.Array:
            change = (new.astype(so_far.dtype) - so_far) / ratio.astype(so_far.dtype)
            return jnp.where(counts, so_far + change, so_far)

        means = jax.tree.map(mean, state.acc_grads, updates)
        like = jax.tree.map(lambda x, u: x.astype(u.dtype), means, updates)
        made, new = inner.update(like, state.inner_opt_state, params, **extra)
        due = state.mini_step == steps - 1
        keep = lambda new, old: jnp.where(due, jnp.asarray(new, old.dtype), old)
        state = AccumulateState(
            mini_step=(state.mini_step + 1) % steps,
            weight=jnp.where(due, 0, total),
            acc_grads=jax.tree.map(lambda x: jnp.where(due, jnp.zeros_like(x), x), means),
            inner_opt_state=jax.tree.map(keep, new, state.inner_opt_state),
        )
        return jax.tree.map(lambda x: jnp.where(due, x, jnp.zeros_like(x)), made), state

    return optax.GradientTransformationExtraArgs(init, update)


def accumulates(opt_state: PyTree) -> bool:
    """Return whether an optimizer's state is that of `accumulate`, or of one around it."""
    return holds(opt_state, lambda x: isinstance(x, AccumulateState))
