"""Tasks from Flax models: NNX modules and Linen modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import linen, nnx, traverse_util

from odyssey_jax._types import PyTree, Task
from odyssey_jax.train import with_outputs


@dataclasses.dataclass(frozen=True)
class _Stream:
    """One variable of a model's random streams: where it is, and what it holds."""

    path: tuple[Any, ...]
    is_key: bool
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _NnxModel:
    """A model's structure in one mode, with the loss: compared by value, and without arrays."""

    graphdef: nnx.GraphDef
    streams: tuple[_Stream, ...]
    loss_fn: Callable[..., Any]

    @classmethod
    def of(cls, model: nnx.Module, loss_fn: Callable[..., Any]) -> Self:
        graphdef, _, rngs, _ = nnx.split(model, nnx.Param, nnx.RngState, ...)
        streams = tuple(
            _Stream(path, isinstance(variable, nnx.RngKey), variable.shape)
            for path, variable in nnx.to_flat_state(rngs)
        )
        return cls(graphdef, streams, loss_fn)

    def merge(self, params: PyTree, model_state: PyTree, key: jax.Array) -> nnx.Module:
        """Make the module; its random streams start from the key.

        So they need not be carried: what a step draws follows from the step alone.
        """
        rngs = {
            stream.path: _stream_keys(key, index, stream.shape)
            if stream.is_key
            else jnp.zeros(stream.shape, jnp.uint32)
            for index, stream in enumerate(self.streams)
        }
        rngs = traverse_util.unflatten_dict(rngs)
        return nnx.merge(self.graphdef, *map(nnx.State, (params, rngs, model_state)))


def _stream_keys(key: jax.Array, index: int, shape: tuple[int, ...]) -> jax.Array:
    key = jax.random.fold_in(key, index)
    return jax.random.split(key, shape) if shape else key


class _NnxLoss(_NnxModel):
    def __call__(self, params, model_state, batch, key):
        model = self.merge(params, model_state, key)
        loss, outputs = with_outputs(self.loss_fn(model, batch))
        return loss, (_arrays(model)[1], outputs)


class _NnxEvaluate(_NnxModel):
    def __call__(self, params, model_state, batch):
        model = self.merge(params, model_state, jax.random.key(0))
        loss, outputs = with_outputs(self.loss_fn(model, batch))
        return {**outputs, "loss": loss}


def _arrays(model: nnx.Module) -> tuple[PyTree, PyTree]:
    """Return the parameters and the rest without random streams, as plain dicts."""
    # What a module sows belongs to one call, not to the run.
    params, _, _, model_state = nnx.state(model, nnx.Param, nnx.RngState, nnx.Intermediate, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(model_state)


def nnx_task(
    model: nnx.Module | Callable[[nnx.Rngs], nnx.Module], loss_fn: Callable[..., Any]
) -> Task:
    """Make a task from a Flax NNX model.

    The loss sees the model in training mode (`model.train()`) when it trains and in evaluation
    mode (`model.eval()`) when it validates; batch statistics are carried. Dropout and other
    random streams start at each step from a key derived from the run's and the step, so they
    need not be carried, and a resumed run draws what an uninterrupted one draws. The module
    passed in is not changed.

    Args:
        model: The module, whose parameters the run starts from; or a function of `nnx.Rngs`
            that makes one, for parameters drawn from the run's key (a population's members
            then differ).
        loss_fn: `(model, batch) -> loss` or `-> (loss, outputs)`; the loss is the scalar mean
            over the batch, the outputs a dict for the metrics.

    Returns:
        The task; its model is a new module, in evaluation mode.

    Raises:
        TypeError: If the model is neither a module nor a function that makes one.

    Example:
        >>> import jax.numpy as jnp, odyssey_jax as ody
        >>> from flax import nnx
        >>> task = ody.nnx_task(nnx.Linear(3, 1, rngs=nnx.Rngs(0)),
        ...                     lambda model, x: (model(x) ** 2).mean())
        >>> params, model_state = task.init(None)
        >>> sorted(params), type(task.rebuild(params, model_state)).__name__
        (['bias', 'kernel'], 'Linear')
    """
    if isinstance(model, nnx.Module):
        template = nnx.clone(model)
        arrays = _arrays(model)
        init = lambda key: arrays
    elif callable(model):
        template = _made(nnx.eval_shape(lambda: model(nnx.Rngs(0))))
        init = lambda key: _arrays(model(nnx.Rngs(key)))
    else:
        raise TypeError(
            f"model must be an nnx.Module or a function of nnx.Rngs, got {type(model).__name__}."
        )
    template.train()
    loss = _NnxLoss.of(template, loss_fn)
    template.eval()
    evaluate = _NnxEvaluate.of(template, loss_fn)

    def rebuild(params, model_state):
        return evaluate.merge(params, model_state, jax.random.key(0))

    return Task(init, loss, evaluate, rebuild)


def _made(model: Any) -> nnx.Module:
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must make an nnx.Module, it made {type(model).__name__}.")
    return model


class _Apply:
    """`module.apply`, bound to variables; remembers the collections that it updates."""

    def __init__(self, module: linen.Module, params, model_state, rngs, mutable: bool):
        self._module, self._params, self._rngs = module, params, rngs
        self._mutable = mutable
        self.model_state = dict(model_state)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        variables = {"params": self._params, **self.model_state}
        if not (self._mutable and self.model_state):
            return self._module.apply(variables, *args, rngs=self._rngs, **kwargs)
        result, updated = self._module.apply(
            variables, *args, rngs=self._rngs, mutable=list(self.model_state), **kwargs
        )
        self.model_state.update(updated)
        return result


@dataclasses.dataclass(frozen=True)
class _LinenModel:
    module: linen.Module
    loss_fn: Callable[..., Any]
    rngs: tuple[str, ...]


class _LinenLoss(_LinenModel):
    def __call__(self, params, model_state, batch, key):
        rngs = {name: jax.random.fold_in(key, i) for i, name in enumerate(self.rngs)}
        apply = _Apply(self.module, params, model_state, rngs, mutable=True)
        loss, outputs = with_outputs(self.loss_fn(apply, batch, train=True))
        return loss, (apply.model_state, outputs)


class _LinenEvaluate(_LinenModel):
    def __call__(self, params, model_state, batch):
        apply = _Apply(self.module, params, model_state, {}, mutable=False)
        loss, outputs = with_outputs(self.loss_fn(apply, batch, train=False))
        return {**outputs, "loss": loss}


def linen_task(
    module: linen.Module,
    loss_fn: Callable[..., Any],
    *sample: Any,
    rngs: Sequence[str] = ("dropout",),
    **sample_kwargs: Any,
) -> Task:
    """Make a task from a Flax Linen model.

    Args:
        module: The module.
        loss_fn: `(apply, batch, train) -> loss` or `-> (loss, outputs)`, where `apply` is the
            module's, with the variables and the random streams filled in: `apply(x, ...)`
            returns what the module returns, and batch statistics that it updates are carried.
            `train` is a bool for the module's own flags.
        *sample: What the module is called with to make its variables; shapes and dtypes count,
            values don't.
        rngs: Names of the random streams that the module draws from in training.
        **sample_kwargs: Keyword arguments of that call, such as `train=False`.

    Returns:
        The task; its model is the dict of variables that `module.apply` takes.

    Raises:
        TypeError: If `module` is not a Linen module.

    Example:
        >>> import jax, jax.numpy as jnp, odyssey_jax as ody
        >>> from flax import linen as nn
        >>> def loss_fn(apply, x, train):
        ...     return (apply(x) ** 2).mean()
        >>> task = ody.linen_task(nn.Dense(1), loss_fn, jnp.zeros((1, 3)))
        >>> params, model_state = task.init(jax.random.key(0))
        >>> sorted(params), model_state
        (['bias', 'kernel'], {})
    """
    if not isinstance(module, linen.Module):
        raise TypeError(f"module must be a flax.linen.Module, got {type(module).__name__}.")

    def init(key):
        streams = {name: jax.random.fold_in(key, i) for i, name in enumerate(("params", *rngs))}
        variables: Mapping[str, Any] = module.init(streams, *sample, **sample_kwargs)
        params = variables.get("params", {})
        # What a module sows belongs to one call, not to the run.
        return params, {k: v for k, v in variables.items() if k not in ("params", "intermediates")}

    return Task(
        init,
        _LinenLoss(module, loss_fn, tuple(rngs)),
        _LinenEvaluate(module, loss_fn, tuple(rngs)),
        lambda params, model_state: {"params": params, **model_state},
    )
