"""Host code at marks of a run: every so many epochs or steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from odyssey_jax._types import TrainState
from odyssey_jax.callbacks import When, every


@dataclasses.dataclass(frozen=True)
class View:
    """What a hook sees of a run.

    Attributes:
        state: The train state that is evaluated: the average's parameters, if one is kept. It is
            on the device, and to be read during the call only.
        step: Train steps done.
        epoch: Epochs done.
        row: The history's row of the epoch that has just ended; empty within an epoch.
        rebuild: As in `Task.rebuild`.
    """

    state: TrainState = dataclasses.field(repr=False)
    step: int
    epoch: int
    row: Mapping[str, int | float]
    rebuild: Callable[[Any, Any], Any] = dataclasses.field(repr=False)

    @property
    def model(self) -> Any:
        """The model in the user's own terms, as `FitResult.model`."""
        return self.rebuild(self.state.params, self.state.model_state)


@dataclasses.dataclass(frozen=True)
class Hook:
    """The hook that `hook` makes."""

    function: Callable[[View], None]
    when: When


def hook(function: Callable[[View], None], when: When | None = None) -> Hook:
    """Call a function of the host at marks of a run, for `fit(hooks=[...])`.

    The program comes up at each mark, however long a call of it would be, so none is missed: an
    epoch's at its end, a step's at the end of the block of at most 10 steps that it lies in. The
    run waits for the function. It changes nothing of the training.

    Args:
        function: Is given a `View`: the model, the state, the step, the epoch and the row.
        when: Such as `every(epochs=5)` or `every(steps=1_000)`; None is each epoch's end.

    Returns:
        The hook.

    Raises:
        TypeError: If `function` can't be called, or `when` is no condition.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
        >>> seen = ody.hook(lambda view: print(view.epoch, round(float(view.model), 3)),
        ...                 ody.every(epochs=2))
        >>> result = ody.fit(task, optax.sgd(0.1), data, epochs=5, writers=[], hooks=[seen])
        2 0.59
        4 0.832
    """
    if not callable(function):
        raise TypeError(f"function must be callable with a view of the run, got {function!r}.")
    when = every(epochs=1) if when is None else when
    if not isinstance(when, When):
        raise TypeError(f"when must be a condition such as every(epochs=5), got {when!r}.")
    return Hook(function, when)
