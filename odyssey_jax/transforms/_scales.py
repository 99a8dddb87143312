"""Scales: of the updates, as a metric or a callback decides, and of the loss in half precision."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from odyssey_jax._checks import check_count
from odyssey_jax._opt_state import holds, with_named_args
from odyssey_jax._types import PyTree
from odyssey_jax.schedules import MetricRule
from odyssey_jax.transforms._skip import all_finite, if_taken


class ScaleByMetricState(NamedTuple):
    """The state of `scale_by_metric`.

    Attributes:
        rule: The rule's state.
    """

    rule: Any

    @property
    def scale(self) -> jax.Array:
        """The scale in force."""
        return self.rule.scale


class ScaleByCallbackState(NamedTuple):
    """The state of `scale_by_callback`.

    Attributes:
        scale: float32 scalar, the scale in force.
    """

    scale: jax.Array


def scale_by_metric(rule: MetricRule) -> optax.GradientTransformationExtraArgs:
    """Scale the updates by a rule that is given a value with each of them.

    The value is the extra argument `value` of `update`, as for
    `optax.contrib.reduce_on_plateau`; `fit` passes the batch's loss. A single batch's loss is
    noisy, so give the rule an `accumulation_size` or a `window`. With gradient accumulation the
    rule sees the value of the step that makes the update. To follow a validation metric, see
    `adapt_rate`.

    Args:
        rule: Such as `reduce_on_plateau(...)` or `greedy(...)`, with a scalar scale.

    Returns:
        An Optax transformation, to come after the one that has the learning rate.

    Raises:
        TypeError: If `rule` is no rule.
        ValueError: If the rule's scale is no scalar; or, when updating, there is no value.

    Source:
        `optax.scale_by_schedule`, of which it is the counterpart.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> rule = ody.reduce_on_plateau(factor=0.5, patience=0)
        >>> optimizer = optax.chain(optax.sgd(0.1), ody.transforms.scale_by_metric(rule))
        >>> state = optimizer.init(jnp.ones(()))
        >>> for loss in [1.0, 1.0, 0.5]:
        ...     updates, state = optimizer.update(jnp.ones(()), state, value=loss)
        ...     print(updates, end=" ")
        -0.1 -0.05 -0.05
    """
    check_rule(rule)
    shape = jax.eval_shape(rule.init).scale.shape
    if shape:
        raise ValueError(
            f"the rule's scale must be a scalar; got shape {shape}. For a scale for each group of "
            "parameters, put a rule into each group of optax.partition."
        )

    def init(params: PyTree) -> ScaleByMetricState:
        del params
        return ScaleByMetricState(rule.init())

    def update(updates, state, params=None, *, value=None, **extra):
        del params, extra
        if value is None:
            raise ValueError(
                "scale_by_metric is given no value: pass it to update, as in "
                "optimizer.update(gradients, state, params, value=loss)."
            )
        state = ScaleByMetricState(rule.update(state.rule, value))
        return _scaled(updates, state.scale), state

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_callback() -> optax.GradientTransformation:
    """Scale the updates by what a callback has set: the other half of `adapt_rate`.

    Until a callback sets it, the scale is 1.

    Returns:
        An Optax transformation, to come after the one that has the learning rate; within a
        group of `optax.partition` it scales that group alone.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> optimizer = optax.chain(optax.sgd(0.1), ody.scale_by_callback())
        >>> updates, _ = optimizer.update(jnp.ones(()), optimizer.init(jnp.ones(())))
        >>> print(updates)
        -0.1
    """

    def init(params: PyTree) -> ScaleByCallbackState:
        del params
        return ScaleByCallbackState(jnp.ones((), jnp.float32))

    def update(updates, state, params=None):
        del params
        return _scaled(updates, state.scale), state

    return optax.GradientTransformation(init, update)


def check_rule(rule: Any) -> None:
    """Raise TypeError unless rule is a rule, which a class of one is not."""
    if isinstance(rule, type) or not isinstance(rule, MetricRule):
        raise TypeError(
            f"rule must have init() and update(state, value), such as reduce_on_plateau(...) or "
            f"greedy(...); got rule = {rule!r}."
        )


def has_scale(opt_state: PyTree) -> bool:
    """Return whether there is a `scale_by_callback` in an optimizer's state."""
    return holds(opt_state, _is_set)


def scale_of(opt_state: PyTree) -> jax.Array:
    """Return the scale in the first `scale_by_callback`; a callback sets all of them alike."""
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_set)
    return next(node.scale for node in nodes if _is_set(node))


def with_scale(opt_state: PyTree, scale: jax.Array) -> PyTree:
    """Return an optimizer's state with another scale in each `scale_by_callback`."""
    new = ScaleByCallbackState(scale)
    return jax.tree.map(lambda x: new if _is_set(x) else x, opt_state, is_leaf=_is_set)


def with_scale_moved(opt_state: PyTree, before: jax.Array, after: jax.Array) -> PyTree:
    """Return an optimizer's state with the scale moved as a rule has moved its own.

    They are the same, unless another callback (`roll_back`) has lowered the scale too: then it
    stays lower by as much.
    """
    scale = scale_of(opt_state)
    ratio = after / jnp.where(before == 0, 1, before)
    return with_scale(opt_state, jnp.where(scale == before, after, scale * ratio))


def _is_set(x: Any) -> bool:
    return isinstance(x, ScaleByCallbackState)


def _scaled(updates: PyTree, scale: jax.Array) -> PyTree:
    return jax.tree.map(lambda update: update * scale.astype(update.dtype), updates)


class LossScaleState(NamedTuple):
    """The state of an optimizer under a loss scale.

    Attributes:
        scale: float32 scalar, the factor of the next loss.
        finite: int32 scalar, the updates since it last changed.
        skipped: int32 scalar, the updates skipped so far.
        inner: The optimizer's own state.
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
        """Return the optimizer for gradients of the scaled loss: unscaled, or else skipped."""
        inner = with_named_args(optimizer)

        def init(params: PyTree) -> LossScaleState:
            zero = jnp.zeros((), jnp.int32)
            return LossScaleState(jnp.float32(self.init), zero, zero, inner.init(params))

        def update(updates, state, params=None, **extra):
            grads = unscaled(updates, state.scale)
            finite = all_finite(grads)
            updates, new = inner.update(grads, state.inner, params, **extra)
            updates, new = if_taken(finite, updates, new, state.inner)
            scale, count = self._next(state, finite)
            skipped = state.skipped + (~finite).astype(jnp.int32)
            return updates, LossScaleState(scale, count, skipped, new)

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
    r"""Scale the loss before it is differentiated, and the gradient back after it.

    A float16 has nothing between 0 and $6 \cdot 10^{-8}$, where many gradients are. With the loss
    times $s$ they are within its range; the gradient is divided by $s$ in float32. An update
    whose gradient is not finite is skipped, and $s$ divided by the factor (down to 1); after
    `growth_interval` updates in a row that were finite it is multiplied by it, as long as it stays
    finite.

    For `fit(loss_scale=...)` and `make_loop`. It is outermost: clipping and accumulation see
    gradients as they are. The scale in force is an output of a train step, "loss_scale", that
    can be sampled; how many updates were skipped is in the optimizer's state.

    Args:
        init: The first scale $s$, finite and above 0.
        growth_interval: Finite updates after which to try a larger one, at least 1; None keeps
            the scale as it is, and still skips.
        factor: Finite and above 1.

    Returns:
        What `fit` and `make_loop` take.

    Raises:
        ValueError: If an argument is out of its range.

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
    if growth_interval is not None:
        growth_interval = check_count("growth_interval", growth_interval, 1, " or None")
    if not (_is_finite(factor) and factor > 1):
        raise ValueError(f"factor must be finite and above 1; got factor = {factor!r}.")
    return LossScale(float(init), growth_interval, float(factor))


def _is_finite(value: Any) -> bool:
    """Return whether it is a number that a float32 can hold."""
    real = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return real and bool(abs(value) <= float(jnp.finfo(jnp.float32).max))


def scale_of_loss(opt_state: PyTree) -> jax.Array | None:
    """Return the scale of the next loss, where the optimizer has one."""
    return opt_state.scale if isinstance(opt_state, LossScaleState) else None


def skipped_by_scale(opt_state: PyTree) -> jax.Array | int:
    """Return how many train steps a loss scale has skipped, where the optimizer has one."""
    return opt_state.skipped if isinstance(opt_state, LossScaleState) else 0


def unscaled(grads: PyTree, scale: Any) -> PyTree:
    """Return the gradient of the loss itself, in its own precision."""

    def one(g: jax.Array) -> jax.Array:
        # Divided in float32 at least: a float16 has no scale above 65504.
        wide = jnp.promote_types(g.dtype, jnp.float32)
        return (g.astype(wide) / scale.astype(wide)).astype(g.dtype)

    return jax.tree.map(one, grads)
