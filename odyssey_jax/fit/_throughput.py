"""The throughput of a run, and the length of a call of the program."""

from __future__ import annotations

import collections
import statistics

from odyssey_jax.data import Calendar

_OUTLASTS = 100  # times as long as a decision of the processes
_LONGEST = 10.0  # seconds: a signal acts when a call is over, and whoever sends it waits 30 s
_BETWEEN = 10  # calls for each pair of them: a short run has one


class CallLength:
    """The steps per compiled call, chosen so that a call takes about 0.5 s.

    On many processes it takes up to 10 s (`_LONGEST`), so that what they agree on before each
    takes a small share of it: 1 % for each of 2 decisions (`_OUTLASTS`).

    Args:
        seconds: How long a call should take. Short enough for a progress line and for Ctrl-C,
            long enough that leaving and entering the program costs nothing.
        first: Steps of the first call, whose speed is not known yet.
        growth: How many times longer than the last a call may be: one that happened to be fast
            does not decide alone.
    """

    def __init__(self, seconds: float = 0.5, first: int = 1, growth: int = 8):
        self._seconds, self._growth = seconds, growth
        self._agreed: collections.deque[float] = collections.deque(maxlen=5)
        self.steps = max(first, 1)

    def agreed(self, seconds: float) -> None:
        """Take note of how long the processes took to agree on a call."""
        self._agreed.append(seconds)

    def took(self, steps: int, seconds: float) -> None:
        """Take note of a call.

        Args:
            steps: Train steps that it ran; one cut short by a save counts as what it was.
            seconds: Wall-clock time that it took.
        """
        if steps <= 0:
            return
        outlasts = _OUTLASTS * statistics.median(self._agreed or [0.0])
        wanted = max(self._seconds, min(outlasts, _LONGEST)) * steps / max(seconds, 1e-9)
        self.steps = max(1, int(min(wanted, self._growth * max(self.steps, steps))))


class Throughput:
    """Train steps a second, less what the ends of epochs take.

    Validation and the callbacks are in the program, at the end of an epoch. What an end takes is
    the difference of two calls of one block each, in the second of which an epoch ends: whatever
    else a call costs is in both. So some of the calls are made in parts, until enough are seen:
    the first at once, and each other one after 10 more calls (`_BETWEEN`), since parts take about
    1 ms each. Calls are what all processes count alike, as they do not their seconds: one that
    made a call in parts where another does not would wait for it.

    Where an epoch is a single block no call is without an end, and they are counted with them.

    Args:
        calendar: How the run is cut.
        enough: Pairs of calls to measure; their median counts.
    """

    def __init__(self, calendar: Calendar, enough: int = 3):
        self._calendar, self._enough = calendar, enough
        self._steps, self._epochs, self._calls, self._seconds = 0, 0, 0, 0.0
        self._without: float | None = None
        self._ends: list[float] = []

    @property
    def steps_per_second(self) -> float:
        """So far; NaN before there is any."""
        if not self._seconds:
            return float("nan")
        training = self._seconds
        if self._ends:
            training -= self._epochs * statistics.median(self._ends)
        return self._steps / (training if training > 0 else self._seconds)

    def parts(self, step: int, limit: int) -> list[int]:
        """Choose the calls to make instead of one.

        Args:
            step: Train steps done.
            limit: The step to run to.

        Returns:
            The limit of each, of which the last is the limit.
        """
        end, block = self._calendar.epoch_end(step), self._calendar.block
        enough = min(self._enough, 1 + self._calls // _BETWEEN)
        if limit < end or self._calendar.epoch == block or len(self._ends) >= enough:
            return [limit]
        parts = (end - 2 * block, end - block, end)
        return [*(part for part in parts if step < part < limit), limit]

    def took(self, before: int, after: int, seconds: float) -> None:
        """Take note of a call.

        Args:
            before: Train steps done when it began.
            after: Those done when it ended.
            seconds: Wall-clock time that it took.
        """
        steps = after - before
        epochs = self._calendar.epochs(after) - self._calendar.epochs(before)
        self._steps, self._epochs = self._steps + steps, self._epochs + epochs
        self._calls, self._seconds = self._calls + 1, self._seconds + seconds
        one, without = steps == self._calendar.block, self._without
        self._without = seconds if one and not epochs else None
        if one and epochs and without is not None and len(self._ends) < self._enough:
            self._ends.append(max(seconds - without, 0.0))
