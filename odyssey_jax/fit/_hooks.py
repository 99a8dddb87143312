"""Host code at marks of a run: every so many epochs or steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._checks import check_columns
from odyssey_jax._types import TrainState
from odyssey_jax.callbacks import When, every


@dataclasses.dataclass(frozen=True)
class View:
    """What a hook sees of a run.

    Attributes:
        state: The train state that is evaluated: the average's parameters, if one is kept. It is
            on the device, and to be read during the call only.
        step: Train steps done.
        epoch: Epochs of the data done, also where `validate=` says when it is evaluated; with the
            one that is about to end, where columns are asked for.
        row: The history's row of the epoch that has just ended; empty within an epoch, and where
            columns are asked for, which will be part of it.
        rebuild: As in `Task.rebuild`.
        metrics: The newest row of the history; empty before there is one.
        key: Typed PRNG key, of the run's and of the step: to draw with.
    """

    state: TrainState = dataclasses.field(repr=False)
    step: int
    epoch: int
    row: Mapping[str, int | float]
    rebuild: Callable[[Any, Any], Any] = dataclasses.field(repr=False)
    metrics: Mapping[str, int | float]
    key: jax.Array = dataclasses.field(repr=False)

    @property
    def model(self) -> Any:
        """The model in the user's own terms, as `FitResult.model`."""
        return self.rebuild(self.state.params, self.state.model_state)


def _nothing() -> None:
    """Do nothing."""


@dataclasses.dataclass(frozen=True)
class Hook:
    """The hook that `hook` makes.

    Attributes:
        function: Is given a `View`.
        when: When it is called.
        columns: What it measures at the ends of these epochs.
        close: Is called when the run is over, however it ends.
    """

    function: Callable[..., Any]
    when: When
    columns: tuple[str, ...] = ()
    close: Callable[[], None] = _nothing

    def bound(self, plan: Any) -> Hook:
        """Return the hook as a run calls it; one that needs the plan takes it from there."""
        del plan
        return self

    def measure(self, view: View) -> dict[str, float]:
        """Call the function, and return a value for each column.

        Raises:
            ValueError: If it returns anything else.
        """
        found = self.function(view)
        if not isinstance(found, Mapping) or found.keys() != set(self.columns):
            got = f"those of {list(found)}" if isinstance(found, Mapping) else repr(found)
            raise ValueError(
                f"the hook {self.function!r} must return a mapping with a number for each of its "
                f"columns, {list(self.columns)}, got {got}."
            )
        return {name: self._number(name, found[name]) for name in self.columns}

    def _number(self, name: str, value: Any) -> float:
        number = as_number(value)
        if number is None or math.isinf(_as_kept(number)):
            raise ValueError(
                f"the hook {self.function!r} must return a real number for the column {name!r}, "
                f"finite or NaN in the dtype of the history, got {value!r}."
            )
        return number


def as_number(value: Any) -> float | None:
    """Return a real scalar, an array of no axes included, as a float; None of anything else."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        return None
    x = np.asarray(jax.device_get(value))
    real = jnp.issubdtype(x.dtype, np.floating) or jnp.issubdtype(x.dtype, np.integer)
    return float(x) if real and x.ndim == 0 else None


def _as_kept(number: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.asarray(number, jax.dtypes.canonicalize_dtype(float)))


def hook(
    function: Callable[[View], Any], when: When | None = None, columns: Iterable[str] = ()
) -> Hook:
    """Call a function of the host at marks of a run, for `fit(hooks=[...])`.

    The program comes up at each mark, however long a call of it would be, so none is missed: an
    epoch's at its end, a step's at the end of the block of at most 10 steps that it lies in. The
    run waits for the function. It changes nothing of the training.

    With `columns` the function measures: what it returns is in the history under these names, as
    if the program had computed it. It is called when an epoch's steps are done, before the
    callbacks of its end, which may monitor a column as any metric. At the end of an epoch at which
    the hook is not called its columns are NaN, and as for an `Evaluation` a patience counts what
    was measured. Each epoch then ends in a call of its own, as with data that is read. On several
    processes each calls the function, and the values of process 0 count.

    Without columns it may return None, or what the writers are to show: names to texts, to
    numbers, or to pictures, [h, w] or [h, w, 1, 3 or 4] of uint8 or of floats in [0, 1].
    TensorBoard, Weights & Biases and MLflow show all of these, `JsonLines` no pictures; others are
    passed over (`Writer`). On several processes process 0 writes.

    Args:
        function: Is given a `View`: the model, the state, the step, the epoch, the row and a key.
        when: Such as `every(epochs=5)` or `every(steps=1_000)`; None is each epoch's end.
        columns: Names, each of which the function returns a number for, finite or NaN, in a
            mapping. `when` must be in epochs or steps then, at evaluations of the run.

    Returns:
        The hook.

    Raises:
        TypeError: If `function` can't be called, or `when` is no condition.
        ValueError: If a column has no name, or that of another or of the clock; or `when` is not
            on epochs and steps alone.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
        >>> seen = ody.hook(lambda view: print(view.epoch, round(float(view.model), 3)),
        ...                 ody.every(epochs=2))
        >>> result = ody.fit(task, optax.sgd(0.1), data, epochs=5, writers=[], hooks=[seen])
        2 0.59
        4 0.832
        >>> far = ody.hook(lambda view: {"far": abs(1 - view.model)}, ody.every(epochs=2), ["far"])
        >>> stop = ody.early_stopping("far", patience=1, mode="max")
        >>> result = ody.fit(task, optax.sgd(0.1), data, epochs=9, writers=[], hooks=[far],
        ...                  callbacks=stop)
        >>> [round(float(x), 2) for x in result.history["far"]]
        [nan, 0.41, nan, 0.17]
    """
    if not callable(function):
        raise TypeError(f"function must be callable with a view of the run, got {function!r}.")
    when = every(epochs=1) if when is None else when
    if not isinstance(when, When):
        raise TypeError(f"when must be a condition such as every(epochs=5), got {when!r}.")
    return Hook(function, when, _as_columns(columns, when))


def _as_columns(columns: Any, when: When) -> tuple[str, ...]:
    names = (columns,) if isinstance(columns, str) or not isinstance(columns, Iterable) else columns
    names = tuple(names)
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"columns must be names such as ('bleu',), got {columns!r}.")
    if len(set(names)) < len(names):
        raise ValueError(f"columns={names!r}: each must have a name of its own.")
    check_columns("columns", names)
    if names and (others := sorted(when.units - {"epochs", "steps"})):
        raise ValueError(
            f"when={when!r}: columns are measured where fit(validate=...) says, at the ends of "
            f"epochs by default, where {' and '.join(others)} don't count: use epochs= or steps=."
        )
    return names


def columns_of(hooks: Iterable[Hook]) -> dict[str, When]:
    """Return the columns of all hooks by name, with their conditions.

    Raises:
        ValueError: If two have one of the same name.
    """
    found: dict[str, When] = {}
    for one in hooks:
        if twice := sorted(found.keys() & set(one.columns)):
            raise ValueError(f"hooks: two have a column {twice[0]!r}: call one of them another.")
        found |= dict.fromkeys(one.columns, one.when)
    return found
