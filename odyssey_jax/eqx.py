"""Tasks from Equinox models."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from odyssey_jax._text import missing
from odyssey_jax._types import LossFn, Model, ModelState, PyTree, Task, Update
from odyssey_jax.train._user_functions import (
    AsksForItsLoss,
    ByValue,
    asked,
    call_loss,
    check_loss_fn,
    checked_update,
    remedy_for,
    united_state,
)
from odyssey_jax.transforms import divided


@functools.cache
def _equinox() -> Any:
    try:
        return importlib.import_module("equinox")
    except ImportError as error:
        raise missing("equinox", "equinox") from error


@dataclasses.dataclass(frozen=True, eq=False)
class _EqxModel(AsksForItsLoss, ByValue):
    """A model without its arrays, and a loss; with or without an `equinox.nn.State`."""

    static: Any
    loss_fn: Callable[..., Any]
    has_state: bool

    def model(self, params: PyTree, model_state: PyTree) -> tuple[Any, Any]:
        """Return the model and its state."""
        arrays, state = united_state(params, model_state)
        return _equinox().combine(arrays, self.static), state

    def called(
        self, params: PyTree, model_state: PyTree, batch: Any, **told: Any
    ) -> tuple[Any, PyTree, dict[str, Any]]:
        """Return the loss, the model state after, and the outputs."""
        model, state = self.model(params, model_state)
        if not told["train"]:
            model = _equinox().nn.inference_mode(model)
        given = (model, state) if self.has_state else model
        loss, outputs = call_loss(self.loss_fn, batch, given, batch, **asked(self.loss_fn, **told))
        if not self.has_state:
            return loss, model_state, outputs
        if "state" not in outputs:
            raise ValueError(
                "the loss of a model with a state must return it among the outputs, as in "
                f"(loss, {{'state': state}}); the outputs are {sorted(outputs)}."
            )
        new = outputs["state"]
        if isinstance(model_state, ModelState):
            new = model_state._replace(updated=new)
        return loss, new, {name: x for name, x in outputs.items() if name != "state"}


class _EqxLoss(_EqxModel):
    def __call__(self, params, model_state, batch, key, **where):
        loss, state, outputs = self.called(params, model_state, batch, train=True, key=key, **where)
        return loss, (state, outputs)


class _EqxEvaluate(_EqxModel):
    def __call__(self, params, model_state, batch, key=None, **where):
        loss, _, outputs = self.called(params, model_state, batch, train=False, key=key, **where)
        return {**outputs, "loss": loss}


def eqx_task(
    model: Model,
    loss_fn: LossFn[Model],
    *,
    trainable: Sequence[str] | None = None,
    update: Update | None = None,
) -> Task[Model]:
    """Make a task from an Equinox model.

    Its floating-point arrays are trained. The loss sees the model as it is given here when it
    trains, and in inference mode (`equinox.nn.inference_mode`) when it validates. What is no array
    stays as it is; the module passed in is not changed.

    Args:
        model: The module; or a pair of one and its `equinox.nn.State`, as
            `equinox.nn.make_with_state` makes them. The loss is then given the pair, and returns
            the new state among the outputs, as "state".
        loss_fn: `(model, batch) -> loss` or `-> (loss, outputs)`; the loss is the scalar mean
            over the batch, the outputs a dict for the metrics. It may have further parameters, any
            of these, by name: `train`, a bool that is False in validation; `key`, a typed PRNG key
            of the step, or of the batch in validation; `step`, an int32 scalar, the index of the
            train step, or in validation the steps done; `progress`, a float32 scalar in [0, 1),
            the step over the steps of the whole run.
        trainable: Regular expressions, each found in at least one array's path, such as
            "^layers/2/"; None trains all that are of floating-point numbers. The others are in the
            model state (`ModelState`): neither differentiated nor clipped, decayed, averaged or
            counted in norms, and without a place in the optimizer's state.
        update: A train step of your own, as in `Task.update`; None is `ody.train.train_step`.

    Returns:
        The task; its model is a module in inference mode, or a pair of it and its state.

    Raises:
        ImportError: If equinox is not installed.
        TypeError: If the model is no Equinox module, or `loss_fn` is not a function, or asks for
            something else.
        ValueError: If a pattern is no regular expression, or is found in no array; or nothing is
            trained.

    Example:
        >>> import equinox, jax, jax.numpy as jnp, optax, odyssey_jax as ody
        >>> model = equinox.nn.MLP(3, 1, 8, depth=1, key=jax.random.key(0))
        >>> def loss_fn(model, x):
        ...     return ((jax.vmap(model)(x) - 1) ** 2).mean()
        >>> data = ody.ArrayDataset(jnp.ones((8, 3)), batch_size=4)
        >>> result = ody.fit(ody.eqx_task(model, loss_fn), optax.adam(0.05), data, epochs=20,
        ...                  writers=[])
        >>> type(result.model).__name__, bool(loss_fn(result.model, jnp.ones((2, 3))) < 0.1)
        ('MLP', True)
    """
    eqx = _equinox()
    check_loss_fn(loss_fn)
    has_state = isinstance(model, tuple) and len(model) == 2
    module, state = cast(tuple[Any, Any], model) if has_state else (model, None)
    if not isinstance(module, eqx.Module) or not isinstance(state, eqx.nn.State | None):
        raise TypeError(
            "model must be an equinox.Module, or a pair of one and its equinox.nn.State, got "
            f"{type(model).__name__}.{remedy_for(model)}"
        )
    arrays, static = eqx.partition(module, eqx.is_array)
    if trainable is None:
        params, untrained = eqx.partition(arrays, eqx.is_inexact_array)
    else:
        params, untrained = divided(arrays, trainable)
    if not jax.tree.leaves(params):
        raise ValueError(f"{type(module).__name__} has no array of floats: nothing is trained.")
    # Counters begin as Python's numbers there, whose weak types no loop would keep.
    state = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), state)
    made = params, ModelState(state, untrained) if jax.tree.leaves(untrained) else state
    evaluate = _EqxEvaluate(static, loss_fn, has_state)

    def rebuild(params: PyTree, model_state: PyTree) -> Any:
        module, state = evaluate.model(params, model_state)
        module = eqx.nn.inference_mode(module)
        return (module, state) if has_state else module

    loss = _EqxLoss(static, loss_fn, has_state)
    return Task(lambda key: made, loss, evaluate, rebuild, checked_update(update))
