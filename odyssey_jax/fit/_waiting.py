"""The best epoch so far, while the save before is going on: a better one may come in time."""

from __future__ import annotations

import jax

from odyssey_jax.callbacks import (
    AdaptRate,
    Chain,
    Checkpoint,
    EarlyStopping,
    Log,
    MaxSteps,
    RollBack,
    TerminateOnNan,
    TrackBest,
)
from odyssey_jax.train import Carry, own

# They never ask for a save: what is asked for beside them is the best.
_SILENT = (AdaptRate, EarlyStopping, Log, MaxSteps, RollBack, TerminateOnNan, TrackBest)


class Waiting:
    """A place for one carry: the newest best takes that of the one before.

    Only where a single best is kept, and no other callback may ask for a save: so each that
    comes is better than the one that waits, which nobody would have kept.

    Args:
        callbacks: those of the loop.
    """

    def __init__(self, callbacks: Chain):
        saving = [c for c in callbacks.callbacks if isinstance(c, Checkpoint)]
        others = [c for c in callbacks.callbacks if not isinstance(c, Checkpoint)]
        one = [checkpoint.retention.keep_best for checkpoint in saving] == [1]
        self._open = one and all(isinstance(callback, _SILENT) for callback in others)
        self.carry: Carry | None = None

    def accepts(self, carry: Carry) -> bool:
        """Says whether a carry is a new best that may wait.

        Args:
            carry: as the loop gave it back.

        Returns:
            Whether it is; then it is better than the one that waits.
        """
        return self._open and bool(carry.signal.save)

    def put(self, carry: Carry) -> None:
        """Copies a carry, so that the loop can go on with it.

        Args:
            carry: one that is accepted.
        """
        self.carry = _copy(carry) if self.carry is None else _copy_over(self.carry, carry)

    def take(self) -> Carry | None:
        """Hands over what waits, if anything does."""
        carry, self.carry = self.carry, None
        return carry


_copy = jax.jit(own)
# Fresh memory costs more than the copy: the carry that waits no longer gives its own.
_copy_over = jax.jit(lambda old, new: own(new), donate_argnums=0, keep_unused=True)
