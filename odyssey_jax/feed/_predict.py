"""What a model makes of data, example by example, over data on the device or on the host."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._types import Batch, Model, PyTree, Task, Told, TrainState
from odyssey_jax.data import HostSource, IndexedSource, Source
from odyssey_jax.feed._chunks import Chunk, OfPass, Stacked, int32, one_batch
from odyssey_jax.feed._evaluate import (
    chunks_read,
    placed_for_evaluation,
    source_to_read,
    where_evaluated,
)
from odyssey_jax.parallel import Placement
from odyssey_jax.train import EvaluationOptions, Loop, compiled, transformed
from odyssey_jax.train._user_functions import ByValue, name_of, shapes_of

_AHEAD = 2  # batches that the device may be ahead of the host


@jax.transfer_guard("allow")
def predict(
    task: Task[Model],
    state: TrainState,
    data: Any,
    function: Callable[[Model, Batch], PyTree] | None = None,
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    step: int | None = None,
    total_steps: int | None = None,
    placement: Placement | None = None,
) -> PyTree:
    """Return what a model makes of each example of the data, in their order.

    Args:
        task: The task that the state belongs to.
        state: The train state, such as `FitResult.state`; the average's parameters, if it holds
            one.
        data: The data, of any kind that `fit` takes, whose own order is kept: a source on the
            host must not be shuffled.
        function: Pure function `(model, batch) -> pytree` of arrays [batch, ...], compiled, where
            the model is the task's own in evaluation mode, as in `FitResult.model`: an NNX
            module, Linen's variables, or the parameters. None is the outputs of the task's loss
            in evaluation, less those that are one number for a batch; if there is a "mask" among
            them, without the examples of which it keeps nothing (the padding of `pad_to`).
        batch_size: Examples in a batch, where the data are plain arrays.
        steps: Batches to predict of data that is read on the host; None is a pass.
        seed: As in `evaluate`, like the next two: for a loss that is told where it is.
        step: The train steps that the state has done.
        total_steps: The train steps of the whole run.
        placement: As in `evaluate`.

    Returns:
        NumPy arrays [examples, ...], in the structure that the function returns; of the task's
        outputs, a dict.

    Raises:
        TypeError: If the data is of no such kind.
        ValueError: If `batch_size` or `steps` is missing, or has no effect; if the data is
            shuffled, what is returned is not of examples, or the loss asks for a step or a
            progress that is not given.

    Example:
        >>> import jax.numpy as jnp, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> state, data = ody.TrainState(jnp.float32(2.0)), jnp.array([1.0, 2.0, 3.0])
        >>> ody.predict(task, state, data, lambda w, batch: w * batch, batch_size=2).tolist()
        [2.0, 4.0, 6.0]
    """
    source, steps = source_to_read("predict", data, batch_size, steps)
    told = (source, steps, where_evaluated(seed, step, total_steps))
    if isinstance(source, HostSource) and source.signature().get("shuffle"):
        raise ValueError(
            f"{source!r} is shuffled, and what is predicted would come in another order than the "
            "examples: give it with shuffle=False."
        )
    if function is None:
        return _gathered(task, state, placement, *told, ())
    task = task._replace(evaluate=_OfModel(task.rebuild, function))
    return _gathered(task, state, placement, *told, None)


@jax.transfer_guard("allow")
def predict_outputs(
    task: Task,
    state: TrainState,
    source: Source,
    outputs: tuple[str, ...],
    *,
    steps: int | None,
    seed: int,
    step: int,
    total_steps: int,
) -> dict[str, np.ndarray]:
    """Return some of the task's outputs for each example, in any order, but the same for all.

    Args:
        task: The task.
        state: The train state.
        source: The data.
        outputs: Their names, at least one; with a "mask" among the task's, less what it leaves out.
        steps: Batches of it; None is all.
        seed: As in `evaluate`, like the next two.
        step: The train steps that the state has done.
        total_steps: The train steps of the whole run.

    Raises:
        ValueError: If there is no such output, or it is not of examples.
    """
    where = where_evaluated(seed, step, total_steps)
    return _gathered(task, state, None, source, steps, where, outputs)


def _gathered(
    task: Task,
    state: TrainState,
    placement: Placement | None,
    source: Source,
    steps: int | None,
    where: Told,
    names: tuple[str, ...] | None,
) -> PyTree:
    """Return what is made of each example: of the task's outputs these, or all for no names."""
    loop, state = placed_for_evaluation(task, state, placement)
    where = loop.placement.put(where)
    found: list[PyTree] = []
    running: collections.deque[PyTree] = collections.deque()
    with contextlib.closing(_chunks(loop, source, steps)) as chunks:
        for chunk in chunks:
            for index in range(chunk.first, chunk.end):
                args = (state, where, chunk.batches, int32(index))
                running.append(_predicted(loop, names, *args))
                if len(running) > _AHEAD:
                    found.append(_on_host(running.popleft(), names is not None))
    found += [_on_host(outputs, names is not None) for outputs in running]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


@dataclasses.dataclass(frozen=True, eq=False)
class _OfModel(ByValue):
    """A function of a task's model, in the place of its evaluation."""

    rebuild: Callable[[PyTree, PyTree], Any]
    function: Callable[[Any, Batch], PyTree]

    def __call__(self, params: PyTree, model_state: PyTree, batch: Batch) -> PyTree:
        try:
            return self.function(self.rebuild(params, model_state), batch)
        except Exception as error:
            error.add_note(f"while tracing {self.function!r} with a batch of {shapes_of(batch)}")
            raise


def _chunks(loop: Loop, source: Source, steps: int | None) -> Generator[Chunk]:
    """Yield the batches of a pass, or of a part of it, in the data's own order."""
    if isinstance(source, IndexedSource):
        full, remainder = EvaluationOptions(batches=steps).cut(source)
        data = loop.placement.put(source)
        yield Chunk(0, full, OfPass(data, None, int32(0)))
        if remainder:
            yield one_batch(full, data, None)
        return
    assert isinstance(source, HostSource)
    yield from chunks_read(source, steps, loop.placement.stacked)


@compiled(static_argnums=(0, 1))
def _predicted(
    loop: Loop,
    names: tuple[str, ...] | None,
    state: TrainState,
    where: Told,
    batches: Stacked | OfPass,
    index: jax.Array,
) -> PyTree:
    """Return what is made of a batch; of a task's outputs those that are of examples."""
    batch = loop.placement.batch(batches.batch(index))
    rows = jax.tree.leaves(batch)[0].shape[0]
    outputs = loop.outputs(state, transformed(batches.transform, batch, None), index, where)
    if names is not None:
        if missing := [name for name in names if name not in outputs]:
            raise ValueError(f"the task has no outputs {missing}; it has {sorted(outputs)}.")
        kept = {*names, "mask"} if names else outputs.keys()
        outputs = {name: x for name, x in outputs.items() if name in kept and jnp.ndim(x) > 0}
        if scalars := [name for name in names if name not in outputs]:
            raise ValueError(f"the outputs {scalars} are one number for a batch, not of examples.")
    leaves = jax.tree_util.tree_leaves_with_path(outputs)
    others = {name_of(path): x for path, x in leaves if jnp.shape(x)[:1] != (rows,)}
    if others or not leaves:
        forms = ", ".join(f"{name!r} of {list(jnp.shape(x))}" for name, x in others.items())
        raise ValueError(
            f"what is predicted for a batch must be arrays whose first axis is its {rows} "
            f"examples, got {forms or 'none'}: give a function= that returns some."
        )
    return outputs


def _on_host(outputs: PyTree, of_task: bool) -> PyTree:
    """Fetch what was made of a batch; without the examples that a task's mask leaves out."""
    here = jax.device_get(outputs)
    if not (of_task and "mask" in here):
        return here
    mask = here["mask"].astype(bool)
    kept = mask.reshape(len(mask), -1).any(axis=1)
    return {name: x[kept] for name, x in here.items()}
