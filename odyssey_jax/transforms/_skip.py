"""Updates that are skipped: of a step that is not finite, or whose loss or gradient is a spike."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from odyssey_jax._checks import check_count
from odyssey_jax._opt_state import with_named_args
from odyssey_jax._types import PyTree, real_dtype

# Of the mean: what differs in its last digits is no spike.
_LEAST_DEVIATION = 1e-3


class SkipNotFiniteState(NamedTuple):
    """The state of `skip_not_finite`.

    Attributes:
        skipped: int32 scalar, the updates skipped so far.
        inner_state: The optimizer's own state.
    """

    skipped: jax.Array
    inner_state: PyTree


class SkipSpikesState(NamedTuple):
    """The state of `skip_spikes`.

    Attributes:
        window: float32 [window, 2], the last finite losses and gradient norms; 0 where there is
            none yet.
        seen: int32 scalar, the finite ones so far.
        skipped: int32 scalar, the updates skipped so far.
        inner_state: The optimizer's own state.
    """

    window: jax.Array
    seen: jax.Array
    skipped: jax.Array
    inner_state: PyTree


def skip_not_finite(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Skip the updates of steps whose loss, gradient or update has a NaN or an infinity.

    However many there are in a row: `optax.apply_if_finite` gives in after so many, and sees the
    updates alone. The parameters and the optimizer's state are then as before; how many were
    skipped is a column of `fit`'s history, "skipped_updates". The model's own state (batch
    statistics) is the step's all the same.

    Args:
        optimizer: An Optax transformation.

    Returns:
        An Optax transformation. Its `update` takes the loss as the extra argument `value`, which
        `fit` passes; without one it judges by the gradient and the update.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> optimizer = ody.transforms.skip_not_finite(optax.sgd(1.0))
        >>> state = optimizer.init(jnp.zeros(()))
        >>> for gradient in (1.0, jnp.nan, 2.0):
        ...     update, state = optimizer.update(jnp.float32(gradient), state)
        ...     print(float(update), int(state.skipped), end="; ")
        -1.0 0; 0.0 1; -2.0 1;
    """
    inner = with_named_args(optimizer)

    def init(params: PyTree) -> SkipNotFiniteState:
        return SkipNotFiniteState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, *, value=None, **extra):
        extra = extra if value is None else {"value": value, **extra}
        new, inner_state = inner.update(updates, state.inner_state, params, **extra)
        finite = all_finite([updates, value, new])
        skipped = state.skipped + (~finite).astype(jnp.int32)
        new, inner_state = if_taken(finite, new, inner_state, state.inner_state)
        return new, SkipNotFiniteState(skipped, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def skip_spikes(
    optimizer: optax.GradientTransformation, *, window: int = 128, sigma_factor: float = 6.0
) -> optax.GradientTransformationExtraArgs:
    r"""Skip the updates of steps whose loss, or whose gradient's norm, is a spike.

    With $m$ and $s$ the mean and the standard deviation (at least $10^{-3} |m|$) of the last
    `window` values before a step, its value $x$ is a spike where $x > m + k s$, with $k$ the
    `sigma_factor`. A spike enters
    the window too, so that a level that has come to stay is no spike for long: about 4 steps of
    the default. What is not finite is skipped, and enters nothing. Before half a window is seen,
    only what is not finite is skipped.

    The parameters and the optimizer's state are then as before; how many were skipped is a column
    of `fit`'s history, "skipped_updates". The window is in the optimizer's state, so a resumed
    run goes on with it.

    Args:
        optimizer: An Optax transformation.
        window: Steps to compare with, at least 2.
        sigma_factor: The $k$ above, finite and above 0.

    Returns:
        An Optax transformation. Its `update` takes the loss as the extra argument `value`, which
        `fit` passes; without one it judges by the gradient alone. With gradient accumulation it
        sees the mean gradient, and the loss of the step that makes the update.

    Raises:
        ValueError: If an argument is out of its range.

    Source:
        `SkipStepOptimizer` of OLMo-core.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> optimizer = ody.skip_spikes(optax.sgd(1.0), window=4)
        >>> state = optimizer.init(jnp.zeros(()))
        >>> for gradient in (1.0, 1.2, 0.9, 50.0, 1.1):
        ...     update, state = optimizer.update(jnp.float32(gradient), state)
        ...     print(round(float(update), 1), end=" ")
        -1.0 -1.2 -0.9 0.0 -1.1
    """
    window = check_count("window", window, 2)
    real = isinstance(sigma_factor, (int, float)) and not isinstance(sigma_factor, bool)
    if not real or not 0 < sigma_factor < math.inf:
        raise ValueError(f"sigma_factor must be finite and above 0, got {sigma_factor!r}.")
    inner = with_named_args(optimizer)

    def init(params: PyTree) -> SkipSpikesState:
        zero = jnp.zeros((), jnp.int32)
        return SkipSpikesState(jnp.zeros((window, 2), jnp.float32), zero, zero, inner.init(params))

    def update(updates, state, params=None, *, value=None, **extra):
        norm = optax.tree.norm(updates)
        norm = jnp.asarray(norm, real_dtype(norm))
        seen = jnp.stack([jnp.asarray(0 if value is None else value), norm]).astype(jnp.float32)
        finite = jnp.isfinite(seen).all()
        there = (jnp.arange(window) < state.seen)[:, None]
        count = jnp.clip(state.seen, 1, window)
        mean = jnp.sum(state.window, 0) / count
        deviation = jnp.sqrt(jnp.sum((state.window - mean) ** 2, 0, where=there) / count)
        bound = mean + sigma_factor * jnp.maximum(deviation, _LEAST_DEVIATION * jnp.abs(mean))
        spike = (state.seen >= window // 2) & (seen > bound).any()
        taken = finite & ~spike
        extra = extra if value is None else {"value": value, **extra}
        new, inner_state = inner.update(updates, state.inner_state, params, **extra)
        new, inner_state = if_taken(taken, new, inner_state, state.inner_state)
        entered = state.window.at[state.seen % window].set(seen)
        return new, SkipSpikesState(
            jnp.where(finite, entered, state.window),
            state.seen + finite.astype(jnp.int32),
            state.skipped + (~taken).astype(jnp.int32),
            inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def all_finite(tree: PyTree) -> jax.Array:
    """Return whether no floating-point leaf has a NaN or an infinity."""
    floating = (x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact))
    finite = (jnp.all(jnp.isfinite(x)) for x in floating)
    return functools.reduce(jnp.logical_and, finite, jnp.ones((), bool))


def if_taken(taken: jax.Array, updates: PyTree, new: PyTree, old: PyTree) -> tuple[PyTree, PyTree]:
    """Return the updates and the optimizer's new state; or no updates, and the old one."""
    choose = lambda yes, no: jax.tree.map(lambda a, b: jnp.where(taken, a, b), yes, no)
    return choose(updates, jax.tree.map(jnp.zeros_like, updates)), choose(new, old)
