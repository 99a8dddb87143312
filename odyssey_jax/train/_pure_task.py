"""A task from plain parameters and a plain loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, overload

import jax
from jax.core import Tracer

from odyssey_jax._types import LossFn, Model, PyTree, Task, Update
from odyssey_jax.train._user_functions import (
    AsksForItsLoss,
    ByValue,
    asked,
    call_loss,
    check_loss_fn,
    checked_update,
    divided_state,
    remedy_for,
    united_state,
)


@dataclasses.dataclass(frozen=True, eq=False)
class _PureLoss(AsksForItsLoss, ByValue):
    """The loss in a task's own form; compared by the function it wraps."""

    loss_fn: Callable[..., Any]

    def __call__(self, params, model_state, batch, key, **where):
        more = asked(self.loss_fn, train=True, key=key, **where)
        whole, _ = united_state(params, model_state)
        loss, outputs = call_loss(self.loss_fn, batch, whole, batch, **more)
        return loss, (model_state, outputs)


@dataclasses.dataclass(frozen=True, eq=False)
class _PureEvaluate(AsksForItsLoss, ByValue):
    loss_fn: Callable[..., Any]

    def __call__(self, params, model_state, batch, key=None, **where):
        more = asked(self.loss_fn, train=False, key=key, **where)
        whole, _ = united_state(params, model_state)
        loss, outputs = call_loss(self.loss_fn, batch, whole, batch, **more)
        return {**outputs, "loss": loss}


@overload
def pure_task(
    params: Callable[[jax.Array], Model],
    loss_fn: LossFn[Model],
    *,
    trainable: Sequence[str] | None = None,
    update: Update | None = None,
) -> Task[Model]: ...


@overload
def pure_task(
    params: Model,
    loss_fn: LossFn[Model],
    *,
    trainable: Sequence[str] | None = None,
    update: Update | None = None,
) -> Task[Model]: ...


def pure_task(
    params: PyTree,
    loss_fn: LossFn[Any],
    *,
    trainable: Sequence[str] | None = None,
    update: Update | None = None,
) -> Task[Any]:
    """Make a task of parameters and a loss, without model state.

    For that, fill a `Task` in yourself: it is three functions.

    Args:
        params: Pytree of arrays; or a function of a typed PRNG key that makes one, for parameters
            drawn from the run's key (a population's members then differ), or that no device is to
            hold whole (see `fully_sharded`).
        loss_fn: `(params, batch) -> loss` or `-> (loss, outputs)`; the loss is the scalar mean
            over the batch, the outputs a dict for the metrics. It may have further parameters, any
            of these, by name: `train`, a bool that is False in validation; `key`, a typed PRNG key
            of the step, or of the batch in validation; `step`, an int32 scalar, the index of the
            train step, or in validation the steps done; `progress`, a float32 scalar in [0, 1),
            the step over the steps of the whole run.
        trainable: Regular expressions, each found in at least one parameter's path, such as
            "^head/"; None trains all. The others are no part of `TrainState.params`, so they are
            neither differentiated (and may be integers) nor clipped, decayed, averaged or counted
            in norms, and have no place in the optimizer's state. They are in the model state
            (`ModelState`), and saved once, unless the loss assigns to them.
        update: A train step of your own, as in `Task.update`; None is `ody.train.train_step`.

    Returns:
        The task; its model is the parameters, all of them.

    Raises:
        ValueError: If a pattern is no regular expression, or is found in no parameter.
        TypeError: If a leaf of the parameters is not an array, or `loss_fn` is not a function, or
            asks for something else.

    Example:
        >>> import jax.numpy as jnp, odyssey_jax as ody
        >>> task = ody.pure_task({"w": jnp.zeros(3)}, lambda p, x: ((x @ p["w"]) ** 2).mean())
        >>> params, model_state = task.init(None)
        >>> float(task.evaluate(params, model_state, jnp.ones((2, 3)))["loss"])
        0.0
    """
    check_loss_fn(loss_fn)
    remedy = remedy_for(params)
    if "NNX" in remedy:
        raise TypeError(f"params must be a pytree of arrays, got {type(params).__name__}.{remedy}")
    made = None if callable(params) and not remedy else _divided(params, trainable, remedy)
    return Task(
        init=lambda key: _divided(params(key), trainable) if made is None else made,
        loss=_PureLoss(loss_fn),
        evaluate=_PureEvaluate(loss_fn),
        rebuild=lambda params, model_state: united_state(params, model_state)[0],
        update=checked_update(update),
    )


def _divided(params: PyTree, trainable: Sequence[str] | None, remedy: str = "") -> tuple[Any, Any]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not isinstance(leaf, (jax.typing.ArrayLike, Tracer)):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} must be an array, got {leaf!r}.{remedy}"
            )
    return divided_state(params, None, trainable)
