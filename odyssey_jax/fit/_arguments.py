"""What `fit` is given, checked and brought into the form that the loop takes."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AxisType

from odyssey_jax._types import ScheduleFn, Task
from odyssey_jax.data import ArrayDataset
from odyssey_jax.schedules import Schedule, constant
from odyssey_jax.train import Averaging, is_transformation
from odyssey_jax.transforms import LossScale

# What each argument is, and what makes one. All but the first two may be None.
_KINDS = {
    "task": (Task, "nnx_task, linen_task or pure_task"),
    "train": (ArrayDataset, "ArrayDataset(arrays, batch_size)"),
    "valid": (ArrayDataset, "ArrayDataset(arrays, batch_size)"),
    "average": (Averaging, "exponential_average or equal_average"),
    "loss_scale": (LossScale, "loss_scale()"),
}


def check_kinds(**arguments: Any) -> None:
    """Refuses what is of another kind, before it fails somewhere within a trace.

    Example:
        >>> check_kinds(train=[1, 2])
        Traceback (most recent call last):
        TypeError: train must be what ArrayDataset(arrays, batch_size) makes, got list.
    """
    for name, value in arguments.items():
        kind, maker = _KINDS[name]
        optional = name not in ("task", "train")
        if not (isinstance(value, kind) or (optional and value is None)):
            raise TypeError(f"{name} must be what {maker} makes, got {type(value).__name__}.")


def check_seed(seed: Any) -> None:
    """Refuses what is no integer."""
    try:
        operator.index(seed)
    except TypeError:
        raise ValueError(f"seed must be an integer, got {seed!r}.") from None


def updates_of(epochs: int, steps_per_epoch: int, accumulate_steps: int) -> int:
    """The updates of a run, of which there must be one.

    Raises:
        ValueError: it ends before the first.
    """
    steps = epochs * steps_per_epoch
    if steps < accumulate_steps:
        raise ValueError(
            f"accumulate_steps={accumulate_steps} is more than the {steps} train steps of the run, "
            "which would end before the first update: choose fewer, or more epochs."
        )
    return steps // accumulate_steps


def as_schedule(optimizer: Any, learning_rate: Any) -> ScheduleFn | None:
    """The learning rate as a pytree that can be called; None where the optimizer has its own."""
    if is_transformation(optimizer):
        if learning_rate is not None:
            raise ValueError(
                f"learning_rate={learning_rate!r} has no effect on an optimizer that is made "
                "already: pass a function of the learning rate, such as optax.adamw or "
                "`lambda lr: optax.chain(..., optax.sgd(lr))`."
            )
        return None
    if not callable(optimizer):
        raise TypeError(
            "optimizer must be an optax.GradientTransformation or a function that makes one of "
            f"a learning rate, got {type(optimizer).__name__}."
        )
    if learning_rate is None:
        raise ValueError(
            f"optimizer={optimizer!r} is a function of a learning rate: pass learning_rate=, a "
            "schedule or a number."
        )
    if isinstance(learning_rate, Schedule):
        return learning_rate
    if callable(learning_rate):
        return jax.tree_util.Partial(learning_rate)  # a bare function is no pytree
    try:
        return constant(float(learning_rate))  # any kind of number is one program
    except TypeError:
        raise ValueError(
            f"learning_rate must be a number or a schedule, got {learning_rate!r}. A rate for each "
            "group of parameters goes to its group, by optax.partition; a rule that follows a "
            "metric is a callback, adapt_rate."
        ) from None


def in_steps(
    schedule: ScheduleFn | None, steps_per_epoch: int, epochs: int, accumulate_steps: int
) -> ScheduleFn | None:
    """The schedule with the run's own epochs and length, counted in optimizer updates."""
    if not isinstance(schedule, Schedule):
        return schedule
    updates = steps_per_epoch / accumulate_steps
    total = max(round(epochs * updates), 1)
    schedule = schedule.resolve(steps_per_epoch=updates, total_steps=total)
    jax.eval_shape(schedule, 0)  # tokens are not known here: it says so now
    return schedule


def with_all_digits(schedule: ScheduleFn | None) -> ScheduleFn | None:
    """The schedule as an argument of the compiled program."""
    return schedule.precise() if isinstance(schedule, Schedule) else schedule


def check_config(config: Mapping[str, Any] | None) -> None:
    """Refuses, before anything is trained, what a checkpoint's metadata can't hold."""
    try:
        json.dumps(dict(config or {}))
    except (TypeError, ValueError) as error:
        raise ValueError(f"config must be JSON, got {config!r}: {error}.") from error


def check_sharding(sharding: Any, train: ArrayDataset) -> None:
    """Refuses a batch's sharding that this program, or this data, can't have."""
    if sharding is None:
        _check_one_process()
        return
    if not isinstance(sharding, jax.sharding.NamedSharding):
        raise TypeError(
            f"batch_sharding must be a jax.sharding.NamedSharding, got {type(sharding).__name__}."
        )
    try:
        sharding.shard_shape((train.batch_size,))
    except ValueError as error:
        raise ValueError(
            f"a batch of {train.batch_size} examples can't be cut evenly by {sharding}: choose "
            "a batch_size that is a multiple of the devices."
        ) from error
    if any(kind is not AxisType.Auto for kind in sharding.mesh.axis_types):
        raise ValueError(
            f"batch_sharding={sharding} has a mesh whose axes are not automatic: make it with "
            "jax.sharding.Mesh(jax.devices(), ('data',)), or give jax.make_mesh "
            "axis_types=(jax.sharding.AxisType.Auto,)."
        )
    missing = set(range(jax.process_count())) - {d.process_index for d in sharding.device_set}
    if missing:
        raise ValueError(
            f"batch_sharding={sharding} has no device of the processes {sorted(missing)}: make its "
            "mesh of jax.devices(), which are all processes'."
        )


def _check_one_process() -> None:
    if jax.process_count() > 1:
        raise ValueError(
            f"this program runs on {jax.process_count()} processes, which fit trains one model "
            "together: pass batch_sharding=, such as NamedSharding(mesh, "
            "PartitionSpec('data')) with mesh = jax.sharding.Mesh(jax.devices(), ('data',))."
        )
