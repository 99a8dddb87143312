"""A scale of the updates that a metric decides: by itself, or through a callback of the loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from odyssey_jax._types import PyTree
from odyssey_jax.schedules import MetricRule


class ScaleByMetricState(NamedTuple):
    """The state of `scale_by_metric`.

    Args:
        rule: the rule's state.
    """

    rule: Any

    @property
    def scale(self) -> jax.Array:
        """The scale in force."""
        return self.rule.scale


class ScaleByCallbackState(NamedTuple):
    """The state of `scale_by_callback`.

    Args:
        scale: float32 scalar, the scale in force.
    """

    scale: jax.Array


def scale_by_metric(rule: MetricRule) -> optax.GradientTransformationExtraArgs:
    """Scales the updates by a rule that is given a value with each of them.

    The value is the extra argument `value` of `update`, as for
    `optax.contrib.reduce_on_plateau`; `fit` passes the batch's loss. A single batch's loss is
    noisy, so give the rule an `accumulation_size` or a `window`. With gradient accumulation the
    rule sees the value of the step that makes the update. To follow a validation metric, see
    `adapt_rate`.

    Args:
        rule: such as `reduce_on_plateau(...)` or `greedy(...)`, with a scalar scale.

    Returns:
        An Optax transformation, to come after the one that has the learning rate.

    Raises:
        TypeError: `rule` is no rule.
        ValueError: the rule's scale is no scalar; or, when updating, there is no value.

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
    """Scales the updates by what a callback has set: the other half of `adapt_rate`.

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
    """Refuses what is no rule, a class of one included."""
    if isinstance(rule, type) or not isinstance(rule, MetricRule):
        raise TypeError(
            f"rule must have init() and update(state, value), such as reduce_on_plateau(...) or "
            f"greedy(...); got rule = {rule!r}."
        )


def has_scale(opt_state: PyTree) -> bool:
    """Whether there is a `scale_by_callback` in an optimizer's state."""
    return any(map(_is_set, jax.tree.leaves(opt_state, is_leaf=_is_set)))


def scale_of(opt_state: PyTree) -> jax.Array:
    """The scale in force in the first `scale_by_callback`; a callback sets all of them alike."""
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_set)
    return next(node.scale for node in nodes if _is_set(node))


def with_scale(opt_state: PyTree, scale: jax.Array) -> PyTree:
    """An optimizer's state with another scale in each `scale_by_callback`."""
    new = ScaleByCallbackState(scale)
    return jax.tree.map(lambda x: new if _is_set(x) else x, opt_state, is_leaf=_is_set)


def with_scale_moved(opt_state: PyTree, before: jax.Array, after: jax.Array) -> PyTree:
    """An optimizer's state with the scale moved as a rule has moved its own.

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
