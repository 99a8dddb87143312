"""Tasks from Flax models: NNX modules and Linen modules."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
from flax import linen, nnx, traverse_util
from flax.core.scope import in_filter, union_filters

from odyssey_jax._types import LossFn, ModelState, PyTree, Task, Update
from odyssey_jax.parallel import axis_names
from odyssey_jax.train._passed_on import passed_on
from odyssey_jax.train._user_functions import (
    AsksForItsLoss,
    ByValue,
    asked,
    call_loss,
    check_loss_fn,
    checked_update,
    divided_state,
    name_of,
    remedy_for,
    united_state,
)

Module = TypeVar("Module", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class _Stream:
    """One variable of a model's random streams: where it is, and what it holds."""

    path: tuple[Any, ...]
    is_key: bool
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _NnxModel(AsksForItsLoss, ByValue):
    """A model's structure in one mode, with the loss: compared by value, and without arrays."""

    graphdef: nnx.GraphDef
    streams: tuple[_Stream, ...]
    loss_fn: Callable[..., Any]
    trainable: Any

    @property
    def draws(self) -> bool:
        """Whether the model has random streams."""
        return bool(self.streams)

    @classmethod
    def of(cls, model: nnx.Module, loss_fn: Callable[..., Any], trainable: Any) -> Self:
        graphdef, rngs, _ = nnx.split(model, nnx.RngState, ...)
        streams = tuple(
            _Stream(path, isinstance(variable, nnx.RngKey), variable.shape)
            for path, variable in nnx.to_flat_state(rngs)
        )
        return cls(graphdef, streams, loss_fn, trainable)

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
        states = model_state if isinstance(model_state, ModelState) else (model_state,)
        return nnx.merge(self.graphdef, *map(nnx.State, (params, rngs, *states)))


def _stream_keys(key: jax.Array, index: int, shape: tuple[int, ...]) -> jax.Array:
    key = jax.random.fold_in(key, index)
    return jax.random.split(key, shape) if shape else key


class _NnxLoss(_NnxModel):
    def __call__(self, params, model_state, batch, key, **where):
        model, loss, outputs = self._called(params, model_state, batch, key, where)
        new_params, new_state = _arrays(model, self.trainable)
        changed = _changed(params, new_params)
        if changed:  # so are all that went through a transformation of Flax's
            trained = lambda *args: _arrays(self._called(*args)[0], self.trainable)[0]
            origins = passed_on(trained, params, model_state, batch, key, where)
            pairs = zip(_names(new_params), origins, strict=True)
            given = _names(params)
            same = {name for name, i in pairs if i is not None and given[i : i + 1] == [name]}
            changed = [name for name in changed if name not in same]
        _check_not_assigned(changed, _normalised(model))
        return loss, (new_state, outputs)

    def _called(self, params, model_state, batch, key, where):
        model = self.merge(params, model_state, key)
        more = asked(self.loss_fn, train=True, key=key, **where)
        return model, *call_loss(self.loss_fn, batch, model, batch, **more)


class _NnxEvaluate(_NnxModel):
    def __call__(self, params, model_state, batch, key=None, **where):
        key = jax.random.key(0) if key is None else key
        model = self.merge(params, model_state, key)
        more = asked(self.loss_fn, train=False, key=key, **where)
        loss, outputs = call_loss(self.loss_fn, batch, model, batch, **more)
        return {**outputs, "loss": loss}


def _names(tree: PyTree) -> list[str]:
    return [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _changed(params: PyTree, new: PyTree) -> list[str]:
    """Return the parameters in whose place there is another array."""
    before = dict(zip(_names(params), jax.tree.leaves(params), strict=True))
    after = zip(_names(new), jax.tree.leaves(new), strict=True)
    return [name for name, x in after if before.get(name) is not x]


def _check_not_assigned(changed: Sequence[str], recomputed: Sequence[str] = ()) -> None:
    """Raise ValueError where a loss has put something else into a parameter."""
    assigned = [name for name in changed if not any(name.startswith(x) for x in recomputed)]
    if assigned:
        raise ValueError(
            f"the loss assigns to the parameters {assigned}, which the optimizer updates: what is "
            "assigned would be lost. Leave them out of what is trained by the task's trainable=; "
            "or keep what the loss updates in another kind of variable, such as a subclass of "
            "nnx.Variable made with the model, or outside of 'params' in Linen; for an average of "
            "the parameters use fit(average=ody.exponential_average(...))."
        )


def _normalised(model: nnx.Module) -> list[str]:
    """Return where the parameters are that a normalisation of weights makes anew at each call."""
    kinds = (nnx.WeightNorm, nnx.SpectralNorm)
    found = (path for path, module in nnx.iter_modules(model) if isinstance(module, kinds))
    return ["".join(f"{key}/" for key in path) for path in found]


def _arrays(model: nnx.Module, trainable: Any = None) -> tuple[PyTree, PyTree]:
    """Return the parameters and the rest without random streams, as plain dicts."""
    # What a module sows belongs to one call, not to the run.
    others = (nnx.RngState, nnx.Intermediate)
    if trainable is None:
        params, _, _, model_state = nnx.state(model, nnx.Param, *others, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(model_state)
    _, _, *parts = nnx.state(model, *others, trainable, nnx.BatchStat, ...)
    params, updated, untrained = map(nnx.to_pure_dict, parts)
    return params, ModelState(updated, untrained)


def nnx_task(
    model: Module | Callable[..., Module],
    loss_fn: LossFn[Module],
    *,
    trainable: Any = None,
    update: Update | None = None,
) -> Task[Module]:
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
            over the batch, the outputs a dict for the metrics. It may have further parameters, any
            of these, by name: `train`, a bool that is False in validation; `key`, a typed PRNG key
            of the step, or of the batch in validation; `step`, an int32 scalar, the index of the
            train step, or in validation the steps done; `progress`, a float32 scalar in [0, 1),
            the step over the steps of the whole run.
        trainable: An NNX filter of the variables that are trained, such as `nnx.LoRAParam` or
            `nnx.All(nnx.Param, nnx.PathContains("head"))`; None is `nnx.Param`. All others are no
            part of `TrainState.params`, so they are neither differentiated (and may be integers)
            nor clipped, decayed, averaged (but batch statistics) or counted in norms, and have no
            place in the optimizer's state. They are in the model state (`ModelState`), and saved
            once. The loss may assign to them, and then they are saved each time: a teacher, a
            target network.
        update: A train step of your own, as in `Task.update`; None is `ody.train.train_step`.

    Returns:
        The task; its model is a new module, in evaluation mode.

    Raises:
        TypeError: If the model is neither a module nor a function that makes one, or `loss_fn` is
            not a function, or asks for something else.
        ValueError: If the model has nothing that is trained; or, when the loss is traced, it
            assigns to that.

    Example:
        >>> import jax.numpy as jnp, odyssey_jax as ody
        >>> from flax import nnx
        >>> task = ody.nnx_task(nnx.Linear(3, 1, rngs=nnx.Rngs(0)),
        ...                     lambda model, x: (model(x) ** 2).mean())
        >>> params, model_state = task.init(None)
        >>> sorted(params), type(task.rebuild(params, model_state)).__name__
        (['bias', 'kernel'], 'Linear')
    """
    check_loss_fn(loss_fn)
    if isinstance(model, nnx.Module):
        template = nnx.clone(model)
        init = lambda key: arrays
    elif _is_nnx_class(model) or (callable(model) and not remedy_for(model)):
        make = _without_sharding(_with_rngs(model))
        template = nnx.eval_shape(lambda: _made(make(nnx.Rngs(0))))
        init = lambda key: _arrays(make(nnx.Rngs(key)), trainable)
    else:
        raise TypeError(
            "model must be an nnx.Module or a function of nnx.Rngs, got "
            f"{type(model).__name__}.{remedy_for(model)}"
        )
    # A model that was called before it came here may hold what it has sown.
    nnx.pop(template, nnx.Intermediate)
    arrays = _arrays(template, trainable)  # of a function's model their shapes
    if not jax.tree.leaves(arrays[0]):
        kinds = sorted({type(x).__name__ for _, x in nnx.to_flat_state(nnx.state(template))})
        what = "nnx.Param" if trainable is None else f"variable of trainable={trainable!r}"
        raise ValueError(
            f"{type(template).__name__} has no {what}, so there is nothing to train; it has "
            f"{', '.join(kinds) or 'no variable at all'}. What is trained must be an nnx.Param, or "
            "what the filter trainable= says."
        )
    template.train()
    loss = _NnxLoss.of(template, loss_fn, trainable)
    template.eval()
    evaluate = _NnxEvaluate.of(template, loss_fn, trainable)

    def rebuild(params: PyTree, model_state: PyTree) -> Any:
        return evaluate.merge(params, model_state, jax.random.key(0))

    names = lambda: axis_names((nnx.state(template), None))
    return Task(init, loss, evaluate, rebuild, checked_update(update), names)


def _without_sharding(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes a model whose annotations are the placement's to act upon."""

    def made(*args: Any, **kwargs: Any) -> Any:
        with nnx.use_eager_sharding(False):
            return make(*args, **kwargs)

    return made


def update_model(model: nnx.Module, params: PyTree, *, partial: bool = False) -> None:
    """Put a tree of arrays into the variables of an NNX model.

    Names count, and not the kinds of keys: "layers/0/kernel" is `model.layers[0].kernel`, whether
    the tree has lists, dicts of numbers or of strings, or is an `nnx.State`. Nothing is cast, and
    each array goes where its variable's lies.

    Args:
        model: The model, which is changed.
        params: Arrays by the model's structure, as `load_params` returns them.
        partial: True to keep the parameters that the tree has not, as those of an adapter.

    Raises:
        ValueError: If an array has no variable, or another shape or dtype than it, or a parameter
            has no array; the message lists them, and the model is unchanged.

    Example:
        >>> from flax import nnx
        >>> import numpy as np, odyssey_jax as ody
        >>> model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        >>> ody.update_model(model, {"kernel": np.ones((3, 1), "float32")}, partial=True)
        >>> model.kernel[...].sum()
        Array(3., dtype=float32)
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be an nnx.Module, got {type(model).__name__}.")
    variables = {"/".join(map(str, path)): (path, x) for path, x in _flat(model)}
    given = {name_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
    if isinstance(params, nnx.State):
        given = {name.removesuffix("/value"): x for name, x in given.items()}
    lost = [name for name, (_, x) in variables.items() if isinstance(x, nnx.Param)]
    wrong = [f"{name} has no variable" for name in given if name not in variables]
    if not partial:
        wrong += [f"parameter {name} has no array" for name in lost if name not in given]
    for name in given.keys() & variables.keys():
        old, new = (f"{x.dtype}{list(x.shape)}" for x in (variables[name][1], given[name]))
        wrong += [f"{name} is {new}, not {old}"] if old != new else []
    if wrong:
        more = f"; and {len(wrong) - 12} more" if len(wrong) > 12 else ""
        raise ValueError(
            f"params are not like {type(model).__name__}: {'; '.join(wrong[:12])}{more}."
        )
    put = {variables[name][0]: _like(x, variables[name][1]) for name, x in given.items()}
    nnx.update(model, nnx.State(traverse_util.unflatten_dict(put)))


def _flat(model: nnx.Module) -> Any:
    return nnx.to_flat_state(nnx.state(model))


def _like(x: Any, variable: nnx.Variable) -> jax.Array:
    """Return an array where the one of a variable lies."""
    old = variable.get_value()
    here = isinstance(old, jax.Array) and old.committed
    return jax.device_put(x, old.sharding) if here else jnp.asarray(x)


def _is_nnx_class(model: Any) -> bool:
    return inspect.isclass(model) and issubclass(model, nnx.Module)


def _with_rngs(make: Callable[..., Any]) -> Callable[[nnx.Rngs], Any]:
    """Return a function of the random streams, which Flax's own modules take by keyword."""
    function = make.func if isinstance(make, functools.partial) else make
    # Of an NNX class itself it is that of its metaclass.
    function = function.__init__ if inspect.isclass(function) else function
    try:
        rngs = inspect.signature(function).parameters.get("rngs")
    except (TypeError, ValueError):  # a built-in
        rngs = None
    by_name = rngs is not None and rngs.kind is not inspect.Parameter.POSITIONAL_ONLY
    return (lambda rngs: make(rngs=rngs)) if by_name else make


def _made(model: Any) -> nnx.Module:
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model must make an nnx.Module, it made {type(model).__name__}.{remedy_for(model)}"
        )
    return model


class _Apply:
    """`module.apply`, bound to variables; remembers the collections that it updates."""

    def __init__(self, module: linen.Module, params, model_state, rngs, train: bool):
        self._module, self._params, self._rngs, self._trains = module, params, rngs, train
        self._untrained = getattr(model_state, "untrained", None)
        _, updated = united_state(params, model_state)
        self._carried = list(updated) if train else []
        self._updated = dict(updated)

    @property
    def model_state(self) -> PyTree:
        """The model's state after the calls so far."""
        if self._untrained is None:
            return self._updated
        return ModelState(self._updated, self._untrained)

    @property
    def _whole(self) -> PyTree:
        return united_state(self._params, self.model_state)[0]

    def __call__(self, *args: Any, mutable: Any = False, rngs: Any = None, **kwargs: Any) -> Any:
        variables = {"params": self._whole, **self._updated}
        kwargs["rngs"] = {**self._rngs, **self._named(rngs)}
        if not (mutable or self._carried):
            return self._module.apply(variables, *args, **kwargs)
        all_of_them = union_filters(mutable, self._carried)
        result, updated = self._module.apply(variables, *args, mutable=all_of_them, **kwargs)
        if "params" in updated:
            self._take(updated["params"])
        self._updated.update({k: x for k, x in updated.items() if k in self._carried})
        if mutable is False:
            return result
        return result, {k: x for k, x in updated.items() if in_filter(mutable, k)}

    def _take(self, params: PyTree) -> None:
        """Take what is assigned to parameters that are not trained."""
        mine = {name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(self._params)}
        part = lambda trained: jax.tree_util.tree_map_with_path(
            lambda path, x: x if (name_of(path) in mine) == trained else None, params
        )
        _check_not_assigned(_changed(self._params, part(True)))
        if self._untrained is not None and self._trains:
            self._untrained = part(False)

    def _named(self, rngs: Any) -> Mapping[str, Any]:
        """Return streams by name, of which Flax calls a single one "params"."""
        return rngs or {} if isinstance(rngs, (Mapping, type(None))) else {"params": rngs}


@dataclasses.dataclass(frozen=True, eq=False)
class _LinenModel(AsksForItsLoss, ByValue):
    module: linen.Module
    loss_fn: Callable[..., Any]
    rngs: tuple[str, ...]

    @property
    def draws(self) -> bool:
        """Whether the module may draw from random streams."""
        return bool(self.rngs)

    def called(
        self, params: PyTree, model_state: PyTree, batch: Any, key: jax.Array, **told: Any
    ) -> tuple[Any, PyTree, dict[str, Any]]:
        """Return the loss, the model state after, and the outputs."""
        rngs = {name: jax.random.fold_in(key, i) for i, name in enumerate(self.rngs)}
        apply = _Apply(self.module, params, model_state, rngs, told["train"])
        more = asked(self.loss_fn, key=key, **told)
        loss, outputs = call_loss(self.loss_fn, batch, apply, batch, **more)
        return loss, apply.model_state, outputs


class _LinenLoss(_LinenModel):
    def __call__(self, params, model_state, batch, key, **where):
        args = (params, model_state, batch, key)
        loss, model_state, outputs = self.called(*args, train=True, **where)
        return loss, (model_state, outputs)


class _LinenEvaluate(_LinenModel):
    def __call__(self, params, model_state, batch, key=None, **where):
        key = jax.random.key(0) if key is None else key
        loss, _, outputs = self.called(params, model_state, batch, key, train=False, **where)
        return {**outputs, "loss": loss}


def linen_task(
    module: linen.Module,
    loss_fn: LossFn[Callable[..., Any]],
    *sample: Any,
    rngs: Sequence[str] = ("dropout",),
    trainable: Sequence[str] | None = None,
    update: Update | None = None,
    **sample_kwargs: Any,
) -> Task[dict[str, Any]]:
    """Make a task from a Flax Linen model.

    Args:
        module: The module.
        loss_fn: `(apply, batch, train) -> loss` or `-> (loss, outputs)`, where `apply` is the
            module's, with the variables and the random streams filled in: `apply(x, ...)`
            returns what the module returns, and batch statistics that it updates are carried.
            With `mutable=`, such as the collections that it sows, it returns those too, as
            the module's does; `rngs=` and `method=` are the module's as well. `train` is a bool
            for the module's own flags, and may be left out; `key`, `step` and `progress` are
            told by name, as to the loss of an `nnx_task`.
        *sample: What the module is called with to make its variables; shapes and dtypes count,
            values don't.
        rngs: Names of the random streams that the module draws from. In validation each batch
            has its own noise, the same in every epoch.
        trainable: Regular expressions, each found in the path of at least one of the 'params',
            such as "^head/"; None trains all. The others are as those of `pure_task`. The loss may
            assign to them, by `mutable=["params"]`.
        update: A train step of your own, as in `Task.update`; None is `ody.train.train_step`.
        **sample_kwargs: Keyword arguments of that call, such as `train=False`.

    Returns:
        The task; its model is the dict of variables that `module.apply` takes.

    Raises:
        TypeError: If `module` is not a Linen module, or `loss_fn` is not a function, or
            asks for something else.
        ValueError: If, at `init`, the module has no parameter, or none of a pattern of
            `trainable`.

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
        is_class = inspect.isclass(module) and issubclass(module, linen.Module)
        got = f"the class {module.__name__}: make one of it" if is_class else type(module).__name__
        remedy = "" if is_class else remedy_for(module)
        raise TypeError(f"module must be a flax.linen.Module, got {got}.{remedy}")
    check_loss_fn(loss_fn)

    def init(key):
        streams = {name: jax.random.fold_in(key, i) for i, name in enumerate(("params", *rngs))}
        variables: Mapping[str, Any] = module.init(streams, *sample, **sample_kwargs)
        params = variables.get("params", {})
        if not jax.tree.leaves(params):
            raise ValueError(
                f"{type(module).__name__} has no 'params', so there is nothing to train; its "
                f"collections are: {', '.join(sorted(variables)) or 'none'}."
            )
        apply = lambda variables: module.apply(
            variables, *sample, rngs=streams, mutable=True, **sample_kwargs
        )
        sown = {"intermediates"} | _sown(variables, apply)
        updated = {k: v for k, v in variables.items() if k != "params" and k not in sown}
        return divided_state(params, updated, trainable)

    def rebuild(params, model_state):
        params, updated = united_state(params, model_state)
        return {"params": params, **updated}

    return Task(
        init,
        _LinenLoss(module, loss_fn, tuple(rngs)),
        _LinenEvaluate(module, loss_fn, tuple(rngs)),
        rebuild,
        checked_update(update),
        lambda: axis_names(jax.eval_shape(init, jax.random.key(0))),
    )


def _sown(variables: Mapping[str, Any], apply: Callable[[Any], Any]) -> set[str]:
    """Return the collections that a module sows: they are of one call, and grow with each."""
    is_tuple = lambda x: type(x) is tuple
    with_tuples = {
        name
        for name, collection in variables.items()
        if any(map(is_tuple, jax.tree.leaves(collection, is_leaf=is_tuple)))
    } - {"params", "intermediates"}
    if not with_tuples:
        return set()
    _, again = jax.eval_shape(apply, variables)
    form = lambda tree, name: jax.tree.structure(tree[name])
    return {name for name in with_tuples if form(again, name) != form(variables, name)}
