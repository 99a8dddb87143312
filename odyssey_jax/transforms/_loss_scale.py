"""The factor that keeps the gradients of half precision from vanishing."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from odyssey_jax._types import PyTree


class LossScaleState(NamedTuple):
    """The state of an optimizer under a loss scale.

    Args:
        scale: float32 scalar, the factor of the next loss.
        finite: int32 scalar, the updates since it last changed.
        skipped: int32 scalar, the updates skipped so far.
        inner: the optimizer's own state.
    """

    scale: jax.Array
    finite: jax.Array
    skipped: jax.Array
    inner: PyTree


@dataclasses.dataclass(frozen=True)
class LossScale:
    """How the scale begins and moves; see `loss_scale`."""

    init: float
    growth_interval: int | None
    factor: float

    def wrap(
        self, optimizer: optax.GradientTransformation
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer for gradients of the scaled loss: unscaled first, or else skipped."""
        inner = optax.with_extra_args_support(optimizer)

        def init(params: PyTree) -> LossScaleState:
            zero = jnp.zeros((), jnp.int32)
            return LossScaleState(jnp.float32(self.init), zero, zero, inner.init(params))

        def update(updates, state, params=None, **extra):
            grads = unscaled(updates, state.scale)
            finite = jnp.all(jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]))
            updates, new = inner.update(grads, state.inner, params, **extra)
            keep = lambda yes, no: jax.tree.map(lambda a, b: jnp.where(finite, a, b), yes, no)
            scale, count = self._next(state, finite)
            skipped = state.skipped + (~finite).astype(jnp.int32)
            updates = keep(updates, jax.tree.map(jnp.zeros_like, updates))
            return updates, LossScaleState(scale, count, skipped, keep(new, state.inner))

        return optax.GradientTransformationExtraArgs(init, update)

    def _next(self, state: LossScaleState, finite: jax.Array) -> tuple[jax.Array, jax.Array]:
        count = jnp.where(finite, state.finite + 1, 0)
        if self.growth_interval is None:
            return state.scale, count
        grows = count >= self.growth_interval
        grown = state.scale * self.factor
        # Not to infinity, which no factor would make less.
        larger = jnp.where(grows & jnp.isfinite(grown), grown, state.scale)
        smaller = jnp.maximum(state.scale / self.factor, 1.0)
        return jnp.where(finite, larger, smaller), jnp.where(grows, 0, count)


def loss_scale(
    init: float = 2.0**15, *, growth_interval: int | None = 2000, factor: float = 2.0
) -> LossScale:
    r"""Scales the loss before it is differentiated, and the gradient back after it.

    A float16 has nothing between 0 and $6 \cdot 10^{-8}$, where many gradients are. With the loss
    times $s$ they are within its range; the gradient is divided by $s$ in float32. An update
    whose gradient is not finite is skipped, and $s$ divided by the factor (down to 1); after
    `growth_interval` updates in a row that were finite it is multiplied by it, as long as it stays
    finite.

    For `fit(loss_scale=...)` and `make_loop`. It is outermost: clipping and accumulation see
    gradients as they are. The scale in force is an output of a train step, "loss_scale", that
    can be sampled; how many updates were skipped is in the optimizer's state.

    Args:
        init: the first scale $s$, finite and above 0.
        growth_interval: finite updates after which to try a larger one, at least 1; None keeps
            the scale as it is, and still skips.
        factor: finite and above 1.

    Returns:
        What `fit` and `make_loop` take.

    Raises:
        ValueError: an argument is out of its range.

    Source:
        Micikevicius et al., "Mixed Precision Training" (2018); `torch.amp.GradScaler`.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> optimizer = ody.loss_scale(8.0, growth_interval=2).wrap(optax.sgd(1.0))
        >>> params = jnp.zeros(())
        >>> state = optimizer.init(params)
        >>> for gradient in (8.0, 8.0, jnp.inf):  # of the loss times 8, 8 and 16
        ...     update, state = optimizer.update(jnp.float32(gradient), state, params)
        ...     print(float(update), float(state.scale))
        -1.0 8.0
        -1.0 16.0
        0.0 8.0
    """
    if not (_is_finite(init) and init > 0):
        raise ValueError(f"init must be finite and above 0; got init = {init!r}.")
    if growth_interval is not None and (
        isinstance(growth_interval, bool)
        or not isinstance(growth_interval, int)
        or growth_interval < 1
    ):
        raise ValueError(
            "growth_interval must be an integer of at least 1 or None; got growth_interval = "
            f"{growth_interval!r}."
        )
    if not (_is_finite(factor) and factor > 1):
        raise ValueError(f"factor must be finite and above 1; got factor = {factor!r}.")
    return LossScale(float(init), growth_interval, float(factor))


def _is_finite(value: Any) -> bool:
    """Whether it is a number that a float32 can hold."""
    real = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return real and bool(abs(value) <= float(jnp.finfo(jnp.float32).max))


def scale_of_loss(opt_state: PyTree) -> jax.Array | None:
    """The scale of the next loss, where the optimizer has one."""
    return opt_state.scale if isinstance(opt_state, LossScaleState) else None


def skipped_by_scale(opt_state: PyTree) -> jax.Array | int:
    """How many train steps a loss scale has skipped, where the optimizer has one."""
    return opt_state.skipped if isinstance(opt_state, LossScaleState) else 0


def unscaled(grads: PyTree, scale: Any) -> PyTree:
    """The gradient of the loss itself, in its own precision."""

    def one(g: jax.Array) -> jax.Array:
        # Divided in float32 at least: a float16 has no scale above 65504.
        wide = jnp.promote_types(g.dtype, jnp.float32)
        return (g.astype(wide) / scale.astype(wide)).astype(g.dtype)

    return jax.tree.map(one, grads)
