"""When a metric counts as improved: the one rule that all monitoring callbacks share."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from odyssey_jax._types import Event, PyTree

Mode = Literal["min", "max"]


class Best(NamedTuple):
    """The best epoch so far.

    Args:
        value: float32 scalar, the monitored metric there.
        epoch: int32 scalar, the index of the epoch.
        step: int32 scalar, the number of steps done at its end.
        seen: bool scalar, whether there has been any value yet. A flag rather than a sentinel:
            infinities and losses above 1e9 are legal values.
        snapshot: `(params, model_state)` at that epoch's end, or None where none is kept.
    """

    value: jax.Array
    epoch: jax.Array
    step: jax.Array
    seen: jax.Array
    snapshot: PyTree = None


def check_monitor(monitor: str, mode: str, min_delta: float = 0.0) -> None:
    """Refuses arguments that no monitoring callback can work with."""
    if not isinstance(monitor, str) or not monitor:
        raise ValueError(f"monitor must be a metric's name such as 'valid/loss', got {monitor!r}.")
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', got {mode!r}.")
    if not (math.isfinite(min_delta) and min_delta >= 0):
        raise ValueError(f"min_delta must be finite and at least 0, got {min_delta!r}.")


def init_best(event: Event, monitor: str, snapshot: bool) -> Best:
    """Makes the record of a run that has seen nothing; names a metric that does not exist."""
    event.metric(monitor)
    kept = (event.state.params, event.state.model_state)
    return Best(
        value=jnp.zeros((), jnp.float32),
        epoch=jnp.zeros((), jnp.int32),
        step=jnp.zeros((), jnp.int32),
        seen=jnp.zeros((), bool),
        snapshot=jax.tree.map(jnp.zeros_like, kept) if snapshot else None,
    )


def update_best(
    best: Best, event: Event, monitor: str, mode: str, min_delta: float = 0.0
) -> tuple[Best, jax.Array]:
    """Takes the record past an epoch; also says whether that epoch improved on it.

    Improvement is strict, so a flat metric is none. The first value that is not NaN always is
    one, and NaN never is.
    """
    value = event.metric(monitor)
    better = value < best.value - min_delta if mode == "min" else value > best.value + min_delta
    improved = ~jnp.isnan(value) & (~best.seen | better)
    new = Best(
        value=value,
        epoch=jnp.asarray(event.clock.epoch, jnp.int32),
        step=jnp.asarray(event.clock.step, jnp.int32),
        seen=jnp.ones((), bool),
        snapshot=None,
    )
    kept = best.snapshot
    if kept is not None:
        # A conditional, not a select: most epochs of a long run don't improve, and the copy of
        # the parameters is the only part of a callback that costs anything.
        now = (event.state.params, event.state.model_state)
        kept = lax.cond(improved, lambda: now, lambda: best.snapshot)
    scalars = jax.tree.map(
        lambda a, b: jnp.where(improved, a, b), new, best._replace(snapshot=None)
    )
    return scalars._replace(snapshot=kept), improved
