"""A `checkpoint`'s ranking follows from the history: it is not saved, but made anew.

So a run can be continued with another `keep_best` or `monitor`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from odyssey_jax.callbacks import Chain, Checkpoint
from odyssey_jax.fit._result import history_of, table
from odyssey_jax.train import Carry


def without_rankings(carry: Carry, callbacks: Chain) -> Carry:
    """The carry as it is saved."""
    return _with_states(carry, callbacks, lambda saving: None)


def with_rankings(carry: Carry, callbacks: Chain) -> Carry:
    """The carry as it was, after a restore of `without_rankings`."""
    history = history_of(carry)
    metrics, like = table(history), history.length

    def ranking(saving: Checkpoint) -> Any:
        # Where nobody said so, an array that was put somewhere would need another program.
        where = like.sharding if like.committed else None
        return jax.device_put(saving.ranking(metrics), where)

    return _with_states(carry, callbacks, ranking)


def _with_states(carry: Carry, callbacks: Chain, make: Callable[[Checkpoint], Any]) -> Carry:
    pairs = zip(callbacks.callbacks, carry.callbacks, strict=True)
    states = [make(c) if isinstance(c, Checkpoint) else state for c, state in pairs]
    return carry._replace(callbacks=tuple(states))
