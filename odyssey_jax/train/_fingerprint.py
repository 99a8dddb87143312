"""Fingerprints of what a run is made of: a resume compares them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._types import PyTree, asks_for
from odyssey_jax.data import checksum
from odyssey_jax.train._loop import Loop
from odyssey_jax.train._step import Step, own_step
from odyssey_jax.transforms import accumulates


def of_function(function: Callable[..., Any], *args: Any) -> str:
    """Return the fingerprint of what a function computes: its traced operations and constants.

    Names, comments and formatting make no difference; another operation, shape or number does.
    """
    traced = jax.make_jaxpr(function)(*args)
    text = re.sub(r" at 0x[0-9a-f]+", "", str(traced.jaxpr))
    digest = hashlib.sha256(text.encode())
    for const in traced.consts:
        digest.update(str(checksum(const)).encode())
    return digest.hexdigest()[:16]


def of_program(loop: Loop, state: Any, batch: PyTree, total_steps: Any) -> dict[str, Any]:
    """Return the fingerprints of the loss and of the optimizer's update.

    The learning rate's schedule is compared by itself: here the rate is a constant. Where the
    loss asks for its progress, the number of steps that it is a share of is among them.
    """
    # Shapes alone: where the arrays lie makes no other run.
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    leaves, structure = jax.tree.flatten((state, batch))
    found = loop.programs.once((structure, *leaves), lambda: _traced(loop, state, batch))
    asks = {*asks_for(loop.loss), *asks_for(loop.evaluate)}
    return {**found, **({"number of steps": int(total_steps)} if "progress" in asks else {})}


def _traced(loop: Loop, state: Any, batch: PyTree) -> dict[str, str]:
    key = jax.random.key(0)
    rate = lambda count: jnp.float32(0.5) + 0.0 * count
    optimizer = loop.make_optimizer(loop.rates_of(rate))
    one = np.int32(1)

    def loss_of(params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array) -> Any:
        return Step(key, one, one, loss=loop.loss).loss_of(params, model_state, batch)

    if (own := loop.update) is not None:  # it may call the loss with anything, or not at all

        def stepped(state: Any, batch: PyTree, key: jax.Array) -> Any:
            at = Step(key, one, one, loss=loop.loss)
            return own_step(own, state, batch, at, optimizer)

        state = state._replace(average=None)
        return {"train step": of_function(stepped, state, batch, key)}

    def update(grads: PyTree, opt_state: PyTree, params: PyTree, value: Any) -> Any:
        extra: dict[str, Any] = {"value": value}
        if not accumulates(opt_state):
            # What a line search may call: that of the loss is not the optimizer's.
            value_fn = lambda params: value + sum(jnp.sum(x).real for x in jax.tree.leaves(params))
            extra |= {"grad": grads, "value_fn": value_fn, "grad_fn": lambda params, *_: params}
        return optimizer.update(grads, opt_state, params, **extra)

    loss = of_function(loss_of, state.params, state.model_state, batch, key)
    value = jax.eval_shape(loss_of, state.params, state.model_state, batch, key)[0]
    value = np.zeros(value.shape, value.dtype)
    args = (state.params, state.opt_state, state.params, value)
    return {"loss function": loss, "optimizer": of_function(update, *args)}
