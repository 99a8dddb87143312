"""How fast a run trains: without compilation, validation, callbacks and saving."""

from __future__ import annotations

import statistics

from odyssey_jax.train import Blocks


class Rate:
    """Train steps a second, less what the ends of epochs take.

    Validation and the callbacks are in the program, at the end of an epoch. What an end takes is
    the difference of two calls of one block each, in the second of which an epoch ends: whatever
    else a call costs is in both. So some of the calls are made in parts, until enough are seen.

    Where an epoch is a single block no call is without an end, and they are counted with them.

    Args:
        blocks: how the run is cut.
        enough: how many pairs of calls there shall be; their median counts.
    """

    def __init__(self, blocks: Blocks, enough: int = 5):
        self._blocks, self._enough = blocks, enough
        self._steps, self._epochs, self._seconds = 0, 0, 0.0
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
        """Chooses the calls to make instead of one.

        Args:
            step: train steps done.
            limit: the step to run to.

        Returns:
            The limit of each, of which the last is the limit.
        """
        epoch, block = self._blocks.epoch, self._blocks.block
        end = step - step % epoch + epoch
        if limit < end or epoch == block or len(self._ends) >= self._enough:
            return [limit]
        parts = (end - 2 * block, end - block, end)
        return [*(part for part in parts if step < part < limit), limit]

    def took(self, before: int, after: int, seconds: float) -> None:
        """Takes note of a call.

        Args:
            before: train steps done when it began.
            after: those done when it ended.
            seconds: wall-clock time that it took.
        """
        steps, epochs = after - before, after // self._blocks.epoch - before // self._blocks.epoch
        self._steps, self._epochs = self._steps + steps, self._epochs + epochs
        self._seconds += seconds
        one, without = steps == self._blocks.block, self._without
        self._without = seconds if one and not epochs else None
        if one and epochs and without is not None and len(self._ends) < self._enough:
            self._ends.append(max(seconds - without, 0.0))
