"""How fast a run trains: without compilation, validation, callbacks and saving."""

from __future__ import annotations

from odyssey_jax.loop import Blocks


class Rate:
    """Train steps a second, of the calls of the program in which no epoch ends.

    Validation and the callbacks are in the program, at the end of an epoch. So a call that
    reaches one is made in two: the first ends a block before it, and only that is counted, less
    what a call costs in which nothing is done. Where an epoch is a single block there is no such
    call, and all are counted.

    Args:
        blocks: how the run is cut.
        empty: seconds of a call in which no step is done.
    """

    def __init__(self, blocks: Blocks, empty: float):
        self._blocks, self._empty = blocks, empty
        self._within = self._all = (0, 0.0)

    @property
    def steps_per_second(self) -> float:
        """So far; NaN before there is any."""
        steps, seconds = self._within if self._within[0] else self._all
        return steps / seconds if seconds > 0 else float("nan")

    def stop_before(self, step: int, limit: int) -> int:
        """Chooses where a call to a limit is made in two.

        Args:
            step: train steps done.
            limit: the step to run to.

        Returns:
            A step at which no epoch has ended since; `step` itself where there is none, and the
            limit where it is one.
        """
        end = step - step % self._blocks.epoch + self._blocks.epoch
        return limit if limit < end else max(step, end - self._blocks.block)

    def took(self, before: int, after: int, seconds: float) -> None:
        """Takes note of a call.

        Args:
            before: train steps done when it began.
            after: those done when it ended.
            seconds: wall-clock time that it took.
        """
        steps, seconds = after - before, max(seconds - self._empty, 0.0)
        self._all = _sum(self._all, steps, seconds)
        if after // self._blocks.epoch == before // self._blocks.epoch:
            self._within = _sum(self._within, steps, seconds)


def _sum(total: tuple[int, float], steps: int, seconds: float) -> tuple[int, float]:
    return total[0] + steps, total[1] + seconds
