"""The functions that a user hands in: how they are compared, called, and what they return."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._types import Batch, ModelState, PyTree, asks_for, known
from odyssey_jax.transforms import divided, united

# Not `jax.typing.ArrayLike`, which a tracer is not.
_NUMBERS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
_REMEDIES = {
    "flax.nnx": "a Flax NNX module: nnx_task(model, loss_fn) takes it",
    "flax.linen": "a Flax Linen module: linen_task(module, loss_fn, sample) takes it",
    "equinox": "an Equinox module: eqx_task(model, loss_fn) takes it",
}


class ByValue:
    """Base of frozen dataclasses that a compiled program is looked up by.

    Compared by type and fields: a field by value where it can be hashed, and by identity where
    it can't, such as a model with a list among its attributes. Then equal models share no
    program, and one model still does.
    """

    @property
    def parts(self) -> tuple[Any, ...]:
        """The fields' values."""
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        return tuple(getattr(self, field.name) for field in fields)

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        return type(self), *map(hashable, self.parts)

    @functools.cached_property
    def _hash(self) -> int:
        # Once: the compiled program is looked up by it at every call.
        return hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByValue) and self._key == other._key


class Traced:
    """A task's function by way of jit, which remembers a trace.

    So the model's own Python code runs once for the shapes of its outputs and for the program.
    """

    def __init__(self, function: Callable[..., Any]):
        self.asks_for, self._function = asks_for(function), function
        self._jitted = jax.jit(function, inline=True)

    def with_loss(self, loss_fn: Callable[..., Any]) -> Any:
        """Return the same function of another loss."""
        return with_loss(self._function, loss_fn)

    def __call__(self, *args: Any, **where: Any) -> Any:
        return self._jitted(*args, **where)


def with_loss(function: Any, loss_fn: Callable[..., Any]) -> Any:
    """Return a task's function with another loss of the user's."""
    if not hasattr(function, "with_loss"):
        raise TypeError(
            f"the task's loss is your own, {_shown(function)}, which takes no other loss_fn: "
            "differentiate that by jax.value_and_grad."
        )
    return function.with_loss(loss_fn)


class _Identity:
    """A value that equals itself alone; kept alive, so that no other gets its id."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value


def hashable(value: Any) -> Any:
    """Return a value that can be hashed: itself, or one that equals itself alone."""
    try:
        hash(value)
    except TypeError:
        return _Identity(value)
    return value


def call_loss(
    loss_fn: Callable[..., Any], batch: Batch, *args: Any, **kwargs: Any
) -> tuple[Any, dict[str, Any]]:
    """Call a user's loss function; an error of its own is told the batch that it was given.

    Returns:
        The loss and the outputs.
    """
    try:
        returned = loss_fn(*args, **kwargs)
    except Exception as error:
        error.add_note(f"while tracing your loss_fn with a batch of {shapes_of(batch)}")
        raise
    return with_outputs(returned)


# What a loss function may ask for by name, beside the model and the batch.
_TOLD = ("train", "key", "step", "progress")
# Apart from what tasks derive from a step's key themselves, by small numbers.
_OF_LOSS = 0x6C6F_7373


def asked(
    loss_fn: Callable[..., Any],
    *,
    train: bool,
    key: jax.Array | None,
    step: Any = None,
    progress: Any = None,
) -> dict[str, Any]:
    """Return what a loss function asks for, by the names of its parameters after the first two.

    Args:
        loss_fn: The user's.
        train: Whether it trains.
        key: Typed PRNG key of the step, or of the batch in validation; None is a constant one.
        step: As in `Told`.
        progress: As in `Told`.
    """
    found: dict[str, Any] = {}
    for name in _asked(loss_fn):
        if name == "train":
            found[name] = train
        elif name == "key":
            key = jax.random.key(0) if key is None else key
            found[name] = jax.random.fold_in(key, _OF_LOSS)
        else:
            found[name] = known(name, {"step": step, "progress": progress}[name])
    return found


class AsksForItsLoss:
    """Base of a task's functions that ask for what the user's loss function asks for."""

    loss_fn: Callable[..., Any]

    @property
    def draws(self) -> bool:
        """Whether they need a key all the same."""
        return False

    def with_loss(self, loss_fn: Callable[..., Any]) -> Any:
        """Return the same function of another loss."""
        check_loss_fn(loss_fn)
        return dataclasses.replace(cast(Any, self), loss_fn=loss_fn)

    @property
    def asks_for(self) -> tuple[str, ...]:
        """What they are told by name: see `odyssey_jax._types.asks_for`."""
        names = _asked(self.loss_fn)
        return tuple(
            name
            for name in ("key", "step", "progress")
            if name in names or (name == "key" and self.draws)
        )


def _asked(loss_fn: Callable[..., Any]) -> list[str]:
    try:
        parameters = list(inspect.signature(loss_fn).parameters.values())[2:]
    except (TypeError, ValueError):  # a built-in
        return []
    return [x.name for x in parameters if x.name in _TOLD]


def check_loss_fn(loss_fn: Any) -> None:
    """Raise TypeError unless a value is a function of a model, a batch and what it may ask for."""
    check_function("loss_fn", loss_fn)
    try:
        parameters = list(inspect.signature(loss_fn).parameters.values())[2:]
    except (TypeError, ValueError):  # a built-in
        return
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    unknown = [
        x.name
        for x in parameters
        if x.name not in _TOLD and x.default is x.empty and x.kind not in variable
    ]
    if unknown:
        raise TypeError(
            f"loss_fn asks for {', '.join(unknown)}, which is not known: beside the model and the "
            f"batch it may have parameters named {', '.join(_TOLD)}, any of them; bind others "
            "with functools.partial."
        )


def shapes_of(batch: Batch) -> str:
    """Return the dtypes and shapes of a batch, for people.

    Example:
        >>> shapes_of({"x": jnp.zeros((8, 3))})
        '{x: float32[8, 3]}'
    """
    form = lambda x: f"{jnp.result_type(x)}{list(jnp.shape(x))}"
    return str(jax.tree.map(form, batch)).replace("'", "")


def with_outputs(returned: Any) -> tuple[Any, dict[str, Any]]:
    """Take apart what a user's loss function returned: a loss, or a loss and outputs.

    Raises:
        ValueError: If the loss is no floating-point scalar.
        TypeError: If the loss is no array, or the outputs are no dict.
    """
    loss, outputs = returned if _is_pair(returned) else (returned, {})
    if not isinstance(loss, _NUMBERS):
        missing = "; is a `return` missing?" if returned is None else "."
        raise TypeError(
            "the loss function must return a loss, a scalar, or (loss, outputs); got "
            f"{_shown(returned)}{missing}"
        )
    if jnp.ndim(loss) != 0:
        raise ValueError(
            f"the loss must be a scalar, the mean over the batch, got shape {jnp.shape(loss)}."
        )
    if not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise ValueError(
            f"the loss must be a floating-point scalar, got {jnp.result_type(loss)}: make it of "
            "real numbers, with .mean() or .astype(jnp.float32)."
        )
    if not isinstance(outputs, dict):
        raise TypeError(
            "the loss function must return a loss, or (loss, outputs) with a dict such as "
            f"{{'logits': ..., 'labels': ...}}; got outputs of type {type(outputs).__name__}."
        )
    return loss, outputs


def _is_pair(returned: Any) -> bool:
    return isinstance(returned, tuple) and len(returned) == 2


def _shown(returned: Any) -> str:
    if isinstance(returned, tuple):
        return f"a tuple of {', '.join(type(x).__name__ for x in returned) or 'nothing'}"
    return "None" if returned is None else f"a {type(returned).__name__}"


def check_function(name: str, value: Any) -> None:
    """Raise TypeError unless a value can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {_shown(value)}.")


def checked_update(update: Any) -> Any:
    """Return a `Task.update`; raise TypeError unless it is a function or None."""
    if update is not None:
        check_function("update", update)
    return update


def remedy_for(model: Any) -> str:
    """Return which task takes a model of another library, for an error; "" where unknown."""
    kind = model if inspect.isclass(model) else type(model)
    for base in kind.__mro__:
        for library, remedy in _REMEDIES.items():
            if base.__module__ == library or base.__module__.startswith(f"{library}."):
                return f" It is {remedy}."
    return ""


def divided_state(
    params: PyTree, model_state: PyTree, trainable: Sequence[str] | None
) -> tuple[PyTree, PyTree]:
    """Return the parameters that are trained, and the model state with the others."""
    if trainable is None:
        return params, model_state
    params, untrained = divided(params, trainable)
    return params, ModelState(model_state, untrained)


def united_state(params: PyTree, model_state: PyTree) -> tuple[PyTree, PyTree]:
    """Return all parameters, and the model state without any."""
    if not isinstance(model_state, ModelState):
        return params, model_state
    return united(params, model_state.untrained), model_state.updated


def check_form_of_state(new: PyTree, old: PyTree) -> None:
    """Raise ValueError unless a loss leaves the form of the model's state, which a loop carries."""
    if what := changes_of_form(new, old):
        raise ValueError(
            f"the loss changes the form of the model's state: it {what}. Structure, shapes and "
            "dtypes must stay as they were at the beginning: make what is carried when the model "
            "is made, and return what is of one call among the outputs (NNX: sow it as "
            "nnx.Intermediate)."
        )


def changes_of_form(new: PyTree, old: PyTree) -> str:
    """Return in words how the form of a tree is another, "" where it is not."""
    form = lambda x: f"{jnp.result_type(x)}{list(jnp.shape(x))}"
    before, after = ({name_of(p): form(x) for p, x in _leaves(tree)} for tree in (old, new))
    changes = [
        *(f"adds {name} ({x})" for name, x in after.items() if name not in before),
        *(f"removes {name}" for name in before if name not in after),
        *(
            f"makes {name} {after[name]} of {x}"
            for name, x in before.items()
            if after.get(name, x) != x
        ),
    ]
    if not changes and jax.tree.structure(new) != jax.tree.structure(old):
        return "has another structure"
    return "; ".join(changes)


def _leaves(tree: PyTree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def name_of(path: Any) -> str:
    """Return a leaf's path as people write it, such as "hidden/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
