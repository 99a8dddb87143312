"""What ends a run before it is over: a signal, or the wall clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from odyssey_jax._types import StopReason
from odyssey_jax.fit._signals import Signals
from odyssey_jax.parallel._agree import greatest

MaxTime = float | timedelta


class Interrupt:
    """Says, at every exit of the loop, whether the run ends there and how far it goes else.

    It is part of no carry and no checkpoint: the run that goes on knows nothing of it.

    Args:
        max_time: how long the run may take from now on; None for as long as it takes.
        clock: returns seconds that only grow.
    """

    def __init__(
        self, max_time: MaxTime | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._signals = Signals()
        self._clock = clock
        self._end = math.inf if max_time is None else clock() + in_seconds(max_time)
        self.reason = StopReason.NONE
        self.exit_code = 0

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._signals.__exit__(kind, error, traceback)

    def agree(self, steps: int) -> int:
        """Settles `reason`, and the steps of the next call, for every process alike.

        Args:
            steps: those that this process would take.

        Returns:
            Those that all take, if there is no reason to end.
        """
        late = self._clock() >= self._end
        steps, received, late = greatest(steps, self._signals.received, late, what="fit")
        if received:
            self._signals.received = received
            self.reason, self.exit_code = StopReason.INTERRUPTED, 128 + received
        elif late:
            self.reason, self.exit_code = StopReason.TIME_BUDGET, _TIMED_OUT
        return steps

    def pass_on(self) -> None:
        """Lets a signal do what it is for, when the run is saved: see `Signals.pass_on`."""
        self._signals.pass_on()


_TIMED_OUT = 124  # as timeout(1) has it


def in_seconds(max_time: Any) -> float:
    """The time in seconds, or why it is none.

    Example:
        >>> in_seconds(timedelta(minutes=2))
        120.0
    """
    seconds = max_time.total_seconds() if isinstance(max_time, timedelta) else max_time
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (number and seconds > 0):
        raise ValueError(
            "max_time must be seconds greater than 0 or a datetime.timedelta, such as "
            f"timedelta(hours=12), got {max_time!r}."
        )
    return float(seconds)
