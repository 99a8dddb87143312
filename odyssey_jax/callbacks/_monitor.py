"""When a metric counts as improved: the one rule that all monitoring callbacks share."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from odyssey_jax._apply_if import apply_if
from odyssey_jax._types import Event, PyTree
from odyssey_jax.schedules import improves, observed
from odyssey_jax.schedules import worst as worst_of

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


def check_monitor(monitor: str, mode: str) -> None:
    """Refuses arguments that no monitoring callback can work with."""
    if not isinstance(monitor, str) or not monitor:
        raise ValueError(f"monitor must be a metric's name such as 'valid/loss', got {monitor!r}.")
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', got {mode!r}.")


def beats(value: Any, other: Any, mode: Mode, *, rtol: Any = 0.0, atol: Any = 0.0) -> jax.Array:
    """Whether a value is better than another: strictly, and by more than the margin.

    The margin is `rtol * abs(other) + atol`. NaN neither beats nor is beaten.
    """
    margin = {"rtol": rtol, "atol": atol, "relative_to": "magnitude"}
    return improves(observed(value), observed(other), mode=mode, **margin)


def init_best(event: Event, monitor: str, snapshot: bool) -> Best:
    """Makes the record of a run that has seen nothing; names a metric that does not exist."""
    event.metric(monitor)
    kept = (event.state.validated.params, event.state.validated.model_state)
    return Best(
        value=jnp.zeros((), jnp.float32),
        epoch=jnp.zeros((), jnp.int32),
        step=jnp.zeros((), jnp.int32),
        seen=jnp.zeros((), bool),
        snapshot=jax.tree.map(jnp.zeros_like, kept) if snapshot else None,
    )


def is_better(
    value: jax.Array, best: Best, mode: Mode, *, rtol: float = 0.0, atol: float = 0.0
) -> jax.Array:
    """Whether a value improves on the best so far.

    A flat metric does not. The first value that is not NaN always does, and NaN never does.
    """
    improved = beats(value, best.value, mode, rtol=rtol, atol=atol)
    return jnp.where(best.seen, improved, ~jnp.isnan(value))


def keep_best(best: Best, event: Event, value: jax.Array, better: jax.Array) -> Best:
    """Takes the record past an epoch, which is the best one where it is better."""
    new = Best(
        value=value,
        epoch=jnp.asarray(event.clock.epoch, jnp.int32),
        step=jnp.asarray(event.clock.step, jnp.int32),
        seen=jnp.ones((), bool),
        snapshot=None,
    )
    kept = best.snapshot
    if kept is not None:
        # Not a select: most epochs of a long run don't improve, and the copy of
        # the parameters is the only part of a callback that costs anything.
        now = (event.state.validated.params, event.state.validated.model_state)
        kept = apply_if(better, lambda _: now, kept)
    scalars = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best._replace(snapshot=None))
    return scalars._replace(snapshot=kept)


def worst(mode: Mode) -> jax.Array:
    """The best value where there is none yet: no value is worse."""
    return worst_of(mode).high


def diverges(
    value: jax.Array, best: Any, mode: Mode, threshold: float | None, factor: float | None
) -> jax.Array:
    """Whether a value is worse than the threshold, or than the best so far by the factor.

    NaN is neither: that is for whoever looks for values that are not finite.
    """
    worse: Mode = "max" if mode == "min" else "min"
    diverged = jnp.zeros((), bool)
    if threshold is not None:
        diverged |= beats(value, threshold, worse)
    if factor is not None:
        diverged |= beats(value, best, worse, rtol=factor - 1)
    return diverged
