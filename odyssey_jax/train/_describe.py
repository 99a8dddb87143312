"""What a run takes, found by compiling a train step for arrays that don't exist."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from odyssey_jax._types import PyTree, Task
from odyssey_jax.data import transform_of
from odyssey_jax.train._carry import Carry, Inputs
from odyssey_jax.train._epoch import Steps
from odyssey_jax.train._loop import Loop

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVES = re.compile(rf"\s({_KINDS})(?:-start)?\(")


@dataclasses.dataclass(frozen=True)
class Description:
    """What a run takes: see `describe_run`.

    Attributes:
        parameters: How many numbers are trained.
        bytes_per_device: What each device holds throughout, by what it is of: "parameters",
            "model state", "optimizer", "average", "callbacks" and "other".
        step_bytes: What a train step takes on a device beside, in bytes: activations, gradients
            and what is gathered. None where the compiler does not say.
        step_flops: Floating-point operations of a train step on a device, as XLA counts them; None
            where it does not. A loop within the model counts once.
        collectives: How many operations of each kind the devices do together in a train step.
        checkpoint_bytes: What a checkpoint holds, in bytes.
        devices: How many devices train.
        memory_bytes: What a device has, in bytes; None where it is not known.
    """

    parameters: int
    bytes_per_device: Mapping[str, int]
    step_bytes: int | None
    step_flops: float | None
    collectives: Mapping[str, int]
    checkpoint_bytes: int
    devices: int
    memory_bytes: int | None

    @property
    def device_bytes(self) -> int:
        """What a device needs at most, in bytes."""
        return sum(self.bytes_per_device.values()) + (self.step_bytes or 0)

    @property
    def fits(self) -> bool | None:
        """Whether it fits on a device; None where it is not known what one has."""
        return None if self.memory_bytes is None else self.device_bytes <= self.memory_bytes

    def __str__(self) -> str:
        rows = [("parameters", f"{self.parameters:,}"), ("devices", f"{self.devices:,}")]
        rows += [(f"{name}, a device", _size(n)) for name, n in self.bytes_per_device.items() if n]
        if self.step_bytes is not None:
            rows.append(("a train step, a device", _size(self.step_bytes)))
        rows.append(("in all, a device", _size(self.device_bytes)))
        if self.memory_bytes is not None:
            rows.append(("a device has", _size(self.memory_bytes)))
        if self.step_flops is not None:
            rows.append(("operations a step, a device", f"{self.step_flops:.3g}"))
        together = ", ".join(f"{n} {kind}" for kind, n in self.collectives.items())
        rows.append(("collectives a step", together or "none"))
        rows.append(("checkpoint", _size(self.checkpoint_bytes)))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def describe(task: Task, loop: Loop, inputs: Inputs, memory_bytes: int | None) -> Description:
    """Describe a run without making any of its arrays.

    Args:
        task: What is trained.
        loop: From `make_loop`.
        inputs: The data, or what stands in for it, and the schedule.
        memory_bytes: What a device has; None is what it says itself.
    """
    placement, key = loop.placement, jax.random.key(0)
    states = jax.eval_shape(task.init, key)
    make = lambda params, model_state: loop.init(key, params, model_state, inputs)
    with placement.context():
        carry = cast(Carry, _placed(jax.eval_shape(make, *states), loop))
        compiled = _step_of(loop, carry, inputs).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    found = Counter(_COLLECTIVES.findall(compiled.as_text()))
    device = jax.devices()[0] if placement.devices is None else placement.devices[0]
    if memory_bytes is None:
        memory_bytes = (device.memory_stats() or {}).get("bytes_limit")
    state = carry.state
    parts = {
        "parameters": state.params,
        "model state": state.model_state,
        "optimizer": state.opt_state,
        "average": state.average,
        "callbacks": carry.callbacks,
        "other": carry._replace(state=cast(Any, None), callbacks=None),
    }
    return Description(
        parameters=sum(x.size for x in jax.tree.leaves(state.params)),
        bytes_per_device={name: _bytes(tree, per_device=True) for name, tree in parts.items()},
        step_bytes=None if memory is None else int(memory.temp_size_in_bytes),
        step_flops=cost.get("flops"),
        collectives=dict(sorted(found.items())),
        checkpoint_bytes=_bytes(carry._replace(ranking=None), per_device=False),
        devices=1 if placement.devices is None else len(placement.devices),
        memory_bytes=memory_bytes,
    )


def _step_of(loop: Loop, carry: Carry, inputs: Inputs) -> Any:
    """Lower a train step for the shapes of a carry."""
    data, key = inputs.train, jax.random.key(0)
    batch = jax.eval_shape(lambda: data.batch(data.order(key, 0), 0))
    given = inputs._replace(train=cast(Any, None), valid=None)

    def step(steps: Steps, batch: Any) -> Steps:
        return loop.train_block(
            steps, jnp.int32(0), 1, lambda _: batch, transform_of(data), key, given
        )

    failed: Any = jax.ShapeDtypeStruct((), jnp.int32)
    steps = Steps(carry.state, carry.metrics, carry.samples, failed)
    return jax.jit(step, donate_argnums=0).lower(steps, batch)


def _placed(carry: PyTree, loop: Loop) -> PyTree:
    """Return the shapes of a carry with their shardings."""
    shardings = loop.placement.shardings(carry, carry.state)
    if shardings is None:
        return carry
    put = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(put, carry, shardings)


def _bytes(tree: PyTree, per_device: bool) -> int:
    total = 0
    for x in jax.tree.leaves(tree):
        sharding = x.sharding if per_device else None
        shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
        total += math.prod(shape) * x.dtype.itemsize
    return total


def _size(n: int) -> str:
    value, units = float(n), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.4g} {units[0]}"
