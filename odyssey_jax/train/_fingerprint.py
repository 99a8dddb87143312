"""Fingerprints of what a run is made of: a resume compares them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from odyssey_jax._types import PyTree
from odyssey_jax.data import checksum
from odyssey_jax.train._loop import Loop


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


def of_program(loop: Loop, state: Any, batch: PyTree) -> dict[str, str]:
    """Return the fingerprints of the loss and of the optimizer's update.

    The learning rate's schedule is compared by itself: here the rate is a constant.
    """
    # Shapes alone: where the arrays lie makes no other run.
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    leaves, structure = jax.tree.flatten((state, batch))
    found = loop.programs.once((structure, *leaves), lambda: _traced(loop, state, batch))
    return dict(found)


def _traced(loop: Loop, state: Any, batch: PyTree) -> dict[str, str]:
    key = jax.random.key(0)
    rate = lambda count: jax.numpy.float32(0.5) + 0.0 * count
    optimizer = loop.make_optimizer(rate)
    loss = of_function(loop.loss, state.params, state.model_state, batch, key)

    def update(grads: PyTree, opt_state: PyTree, params: PyTree, value: Any) -> Any:
        return optimizer.update(grads, opt_state, params, value=value)

    args = (state.params, state.opt_state, state.params, np.float32(0))
    return {"loss function": loss, "optimizer": of_function(update, *args)}
