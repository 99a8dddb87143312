"""When `fit` saves, and how far the program may run before it must be asked again."""

from __future__ import annotations

import time
from collections.abc import Callable

from odyssey_jax.callbacks import NEVER, Checkpoint, Moment
from odyssey_jax.data import ArrayDataset
from odyssey_jax.train import Blocks


class Cadence:
    """Decides at each exit of the loop whether a save is due.

    Args:
        saving: what was asked for; None is nothing.
        blocks: how the run is cut.
        train: the training data, to count its examples.
        step: train steps done when the run is begun or gone on with.
        clock: seconds, from any origin.
    """

    def __init__(
        self,
        saving: Checkpoint | None,
        blocks: Blocks,
        train: ArrayDataset,
        step: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._when = NEVER if saving is None else saving.condition
        self._blocks, self._train, self._clock = blocks, train, clock
        self._begun = clock()
        by_time = saving is not None and saving.when is None
        self._allowance = Allowance(self._begun) if by_time else None
        self._before = self._moment(step)

    def limit(self, step: int, steps: int) -> int:
        """Chooses the step to run to, so that no mark is passed unseen.

        Args:
            step: train steps done.
            steps: how many more there may be.

        Returns:
            A later step. Where the run passes the end of an epoch, it is one: there the metrics
            are new, and there is most to show and to save.
        """
        end, epoch = step + steps, self._blocks.epoch
        if end // epoch > step // epoch:
            end -= end % epoch
        now = self._moment(step)
        epochs = self._when.next_mark("epochs", now.epochs)
        examples = self._when.next_mark("examples", now.examples)
        marks = (
            self._when.next_mark("steps", step),
            None if epochs is None else epochs * epoch,
            None if examples is None else self._steps_for(examples),
        )
        return min([end, *(mark for mark in marks if mark is not None)])

    def due(self, step: int, took: float | None) -> bool:
        """Looks whether a save is due, since the last look.

        Args:
            step: train steps done.
            took: seconds that the save before took; None while it goes on.

        Returns:
            Whether to save now.
        """
        before, now = self._before, self._moment(step)
        self._before = now
        due = bool(self._when.holds(before, now))
        if self._allowance is None:
            return due
        at_end = step % self._blocks.epoch == 0
        return due or self._allowance.suffices(self._clock(), at_end, took)

    def is_free(self, took: float | None) -> bool:
        """Says whether a save that can wait need not.

        Args:
            took: seconds that the save before took; None while it goes on.

        Returns:
            Whether no save is going on, nor has too much of the time gone to saving.
        """
        if took is None or self._allowance is None:
            return took is not None
        return self._allowance.is_free(self._clock(), took)

    def saved(self) -> None:
        """Takes note that a save has begun, whoever asked for it."""
        if self._allowance is not None:
            self._allowance.spend(self._clock())

    def _moment(self, step: int) -> Moment:
        passes, position = divmod(step, self._blocks.data_pass)
        seen = min(position * self._train.batch_size, self._per_pass)
        return Moment(
            epochs=step // self._blocks.epoch,
            steps=step,
            examples=passes * self._per_pass + seen,
            seconds=self._clock() - self._begun,
        )

    @property
    def _per_pass(self) -> int:
        return self._blocks.full * self._train.batch_size + self._train.remainder

    def _steps_for(self, examples: int) -> int:
        passes, rest = divmod(examples, self._per_pass)
        return passes * self._blocks.data_pass + -(-rest // self._train.batch_size)


class Allowance:
    """Lets a run save about every half minute, but for no more than a share of its time.

    Args:
        now: seconds, when the run begins.
        seconds: the least time from one save to the next at the ends of epochs; within an epoch
            twice that, since the end may come in time.
        share: the most that saving may take of the time, from the copy to the commit.
        least: the least seconds that a save is taken to need: of the first none are known.
    """

    def __init__(self, now: float, seconds: float = 30.0, share: float = 0.05, least: float = 0.05):
        self._last, self._seconds, self._share, self._least = now, seconds, share, least

    def suffices(self, now: float, at_end: bool, took: float | None) -> bool:
        """Says whether there may be a save.

        Args:
            now: seconds.
            at_end: whether an epoch has just ended.
            took: seconds that the save before took; None while it goes on.

        Returns:
            Whether there may be one now.
        """
        pause = self._seconds if at_end else 2 * self._seconds
        return took is not None and now - self._last >= pause and self.is_free(now, took)

    def is_free(self, now: float, took: float) -> bool:
        """Says whether the save before has had its share of the time.

        Args:
            now: seconds.
            took: seconds that it took.

        Returns:
            Whether another would stay within the share.
        """
        return now - self._last >= max(took, self._least) / self._share

    def spend(self, now: float) -> None:
        """Takes note that a save begins.

        Args:
            now: seconds.
        """
        self._last = now
