"""Many runs as one program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax

from odyssey_jax._types import Task
from odyssey_jax.train._carry import Carry, Inputs, Keys
from odyssey_jax.train._loop import Loop

AXIS = "members"

# The clock is shared; everything else has a leading axis of members.
_CARRY = Carry._make(None if name == "clock" else 0 for name in Carry._fields)


class Population(NamedTuple):
    """The functions of `Loop`, over a leading axis of members in all but the clock.

    Attributes:
        init: `(keys, inputs) -> carry`.
        run: `(carry, inputs, limit) -> carry`; ends when every member has stopped.
        finish: `carry -> carry`.
    """

    init: Callable[[jax.Array, Inputs], Carry]
    run: Callable[..., Carry]
    finish: Callable[[Carry], Carry]


def population(loop: Loop, task: Task, in_axes: Inputs | None = None) -> Population:
    """Turn a loop into one over a population, by `jax.vmap`.

    Each member has its own key (so its own parameters, if the task draws them, and its own
    shuffles), and its own values of whatever `in_axes` says. Each stops on its own and is
    frozen from there on, to the bit; the run ends when all have stopped.

    Args:
        loop: From `make_loop`.
        task: The task it was made with.
        in_axes: Which of the inputs have an axis of members, as for `jax.vmap`; by default the
            learning rate's hyper-parameters do, and the data is shared.

    Returns:
        Pure functions, to be jitted.

    Example:
        Two learning rates, one program:

        >>> import jax, jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
        >>> both = ody.train.population(ody.train.make_loop(task, optax.sgd), task)
        >>> rates = jax.vmap(ody.constant)(jnp.array([0.01, 0.1]))
        >>> inputs = ody.train.Inputs(data, None, rates)
        >>> carry = both.init(jax.random.split(jax.random.key(0), 2), inputs)
        >>> carry = jax.jit(both.run)(carry, inputs, 20)
        >>> [round(float(w), 3) for w in carry.state.params]
        [0.332, 0.988]
    """
    loop = dataclasses.replace(loop, axis_name=AXIS)
    axes = Inputs(cast(Any, None), None, cast(Any, 0)) if in_axes is None else in_axes

    def init(key, inputs):
        return loop.init(key, *task.init(Keys.of(key).init), inputs)

    over = {"axis_name": AXIS, "out_axes": _CARRY}
    return Population(
        init=jax.vmap(init, in_axes=(0, axes), **over),
        run=jax.vmap(loop.run, in_axes=(_CARRY, axes, None), **over),
        finish=jax.vmap(loop.finish, in_axes=(_CARRY,), **over),
    )
