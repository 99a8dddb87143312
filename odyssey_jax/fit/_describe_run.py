"""What a run would take, said before it is trained."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from typing import Any

from odyssey_jax._types import OptimizerLike, Task
from odyssey_jax.fit._fit import fit
from odyssey_jax.fit._plan import make_plan
from odyssey_jax.train import Description, StepOptions


def describe_run(
    task: Task[Any],
    optimizer: OptimizerLike,
    train: Any,
    valid: Any = None,
    *,
    memory_bytes: int | None = None,
    **arguments: Any,
) -> Description:
    """Say what a run would take, without training it or making its parameters.

    The train step is traced and compiled for shapes alone, as `fit` with the same arguments would
    have it: so it can be asked on a laptop what each of 64 devices would hold
    (`XLA_FLAGS=--xla_force_host_platform_device_count=64`).

    Args:
        task: As for `fit`, like all that follow; a task of a function that makes the parameters
            needs no memory for them.
        optimizer: As for `fit`.
        train: As for `fit`.
        valid: As for `fit`.
        memory_bytes: What a device has, to see whether the run fits; None is what it says itself,
            which CPUs don't.
        **arguments: Further arguments of `fit`, such as `placement=` and `accumulate_steps=`.
            `epochs` and `steps` may be left out.

    Returns:
        Parameters, bytes on each device, operations and collectives of a step, and the size of a
        checkpoint; its text is a table.

    Raises:
        TypeError: If an argument is none of `fit`'s, or of another kind.
        ValueError: If an argument is out of its range.

    Warns:
        RuntimeWarning: If it can't fit on a device.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task({"w": jnp.zeros((8, 8))}, lambda p, x: ((x @ p["w"]) ** 2).mean())
        >>> found = ody.describe_run(task, optax.adam, jnp.ones((16, 8)), batch_size=8,
        ...                          learning_rate=0.1, placement=ody.parallel.one_device())
        >>> found.parameters, found.bytes_per_device["parameters"], found.collectives
        (64, 256, {})
    """
    signature = inspect.signature(fit)
    if arguments.get("steps") is None:
        arguments = {"epochs": 1, **arguments}
    bound = signature.bind(task, optimizer, train, valid, **arguments)
    bound.apply_defaults()
    given = dict(bound.arguments)
    fields = [field.name for field in dataclasses.fields(StepOptions)]
    options = StepOptions(**{name: given.pop(name) for name in fields})
    given = {**given, "directory": None, "writers": [], "resume": "latest"}
    found = make_plan(options=options, **given).program(None).describe(memory_bytes)
    if found.fits is False:
        warnings.warn(
            f"the run needs {found.device_bytes:,} bytes on a device, which has "
            f"{found.memory_bytes:,}: cut more of it (ody.fully_sharded), take smaller batches "
            "(accumulate_steps=), or compute activations anew (jax.checkpoint, nnx.remat)",
            RuntimeWarning,
            stacklevel=2,
        )
    return found
