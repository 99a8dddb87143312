"""Ask for checkpoints: every so often, and of the best epochs; the store saves them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._checks import check_count, check_monitor, check_words
from odyssey_jax._direction import better
from odyssey_jax._types import Event, Mode, Point, Signal
from odyssey_jax.callbacks._callback import ShortRepr
from odyssey_jax.callbacks._when import When, at, epoch_of, every, require_epochs

OnFailedSave = Literal["raise", "warn"]
NEVER = at(epochs=())


class Retention(NamedTuple):
    """Which checkpoints are kept, beside those that are pinned.

    Attributes:
        keep_last: How many of the newest; None is all.
        keep_best: How many of the best by `monitor`.
        keep_every_epochs: Every so many epochs' is kept for good; None keeps none so.
        monitor: The metric's name, or None.
        mode: Whether "min" or "max" is better; None is as the metric has it (`with_mode`).
    """

    keep_last: int | None = 1
    keep_best: int = 0
    keep_every_epochs: int | None = None
    monitor: str | None = None
    mode: Mode | None = None

    def with_mode(self, mode_of: Callable[[str], Mode] = better) -> Retention:
        """Return one whose mode is known.

        Args:
            mode_of: The metric's name to its mode, such as `Event.mode`; by default as the name
                says.

        Returns:
            One with the mode that was given, else the metric's; without a metric "min".

        Raises:
            ValueError: If it is not known.
        """
        if self.mode is not None:
            return self
        return self._replace(mode="min" if self.monitor is None else mode_of(self.monitor))

    def score(self, values: Any) -> Any:
        """Return what `Ranking` orders values of the metric by: less is better.

        Args:
            values: The metric, a scalar or an array.

        Returns:
            The values; in mode "max" their negatives.
        """
        return values if self.with_mode().mode == "min" else -values

    def for_store(self, steps_per_epoch: int) -> dict[str, Any]:
        """Return the same for a `Store`, which counts steps.

        Args:
            steps_per_epoch: Train steps to an epoch.

        Returns:
            The arguments of `Store` by name.
        """
        own = self.with_mode()._asdict()
        epochs = own.pop("keep_every_epochs")
        return {**own, "keep_every": None if epochs is None else epochs * steps_per_epoch}


class Ranking(NamedTuple):
    """The scores of the best epochs so far, by which the next one enters or not.

    As the store ranks: less is better (`Retention.score`), ties stay with the earlier, and NaN
    never enters.

    Attributes:
        scores: float32 [keep_best], or float64 of such a metric, best first; the largest number
            where there has been no epoch yet.
        length: int32 scalar, how many there have been, at most `keep_best`.

    Example:
        >>> from odyssey_jax.callbacks import Ranking
        >>> ranking = Ranking.empty(2)
        >>> for score in [3.0, 2.0, 2.5, 2.5]:
        ...     ranking, entered = ranking.enter(jnp.float32(score))
        ...     print(bool(entered), ranking.scores.tolist())
        True [3.0, 3.4028234663852886e+38]
        True [2.0, 3.0]
        True [2.0, 2.5]
        False [2.0, 2.5]
    """

    scores: jax.Array
    length: jax.Array

    @classmethod
    def empty(cls, keep_best: int, dtype: Any = jnp.float32) -> Ranking:
        """Return the ranking of no epoch.

        Args:
            keep_best: How many epochs it holds, at least 1.
            dtype: Of the scores.

        Returns:
            The ranking.
        """
        return cls(jnp.full(keep_best, jnp.finfo(dtype).max, dtype), jnp.zeros((), jnp.int32))

    @classmethod
    def of(cls, scores: Any, keep_best: int) -> Ranking:
        """Return the ranking that entering epoch by epoch would have come to.

        It follows from the history, so it need not be saved: `keep_best` and `monitor` may change.

        Args:
            scores: float32 or float64 [epochs], of every epoch so far; on the host.
            keep_best: How many epochs it holds, at least 1.

        Returns:
            The ranking.
        """
        scores = np.asarray(scores)
        best = np.sort(scores[~np.isnan(scores)])[:keep_best]
        padded = np.full(keep_best, np.finfo(scores.dtype).max, scores.dtype)
        padded[: len(best)] = np.minimum(best, padded[: len(best)])  # as `enter` leaves infinity
        return cls(jnp.asarray(padded), jnp.asarray(len(best), jnp.int32))

    def enter(self, score: jax.Array) -> tuple[Ranking, jax.Array]:
        """Take the ranking past an epoch.

        Args:
            score: float32 scalar, of the epoch.

        Returns:
            The ranking, and whether the epoch entered it.
        """
        full = self.length >= self.scores.shape[0]
        entered = ~jnp.isnan(score) & (~full | (score < self.scores[-1]))
        scores = jnp.sort(jnp.append(self.scores, score))[:-1]
        after = Ranking(scores, jnp.where(full, self.length, self.length + 1))
        return jax.tree.map(lambda a, b: jnp.where(entered, a, b), after, self), entered


@dataclasses.dataclass(frozen=True, repr=False)
class Checkpoint(ShortRepr):
    """The callback that `checkpoint` makes; its state is a `Ranking`, or None."""

    when: When | None = None
    retention: Retention = Retention()
    on_failed_save: OnFailedSave = "raise"

    asks_to_stop = False

    @property
    def points(self) -> tuple[Point, ...]:
        """The end of an epoch."""
        return (Point.EPOCH_END,)

    @property
    def condition(self) -> When:
        """When a save is due whatever the metrics: as asked, and what is kept for good."""
        asked = NEVER if self.when is None else self.when
        kept = self.retention.keep_every_epochs
        return asked if kept is None else asked | every(epochs=kept)

    def only_best(self) -> Checkpoint:
        """Return one that leaves everything but the best to whoever runs the loop.

        Returns:
            A checkpoint that asks for saves of the best epochs only.
        """
        kept = self.retention._replace(keep_every_epochs=None)
        return dataclasses.replace(self, when=NEVER, retention=kept)

    def init(self, event: Event) -> Ranking | None:
        """Make the ranking of a run that has seen no epoch."""
        if self.when is not None:
            require_epochs(self.condition, "in a loop of your own a checkpoint is asked for")
        if self.retention.monitor is None:
            return None
        event.metric(self.retention.monitor)
        self.retention.with_mode(event.mode)  # raises where it is not known
        return Ranking.empty(self.retention.keep_best)

    def update(self, state: Ranking | None, event: Event) -> tuple[Ranking | None, Signal]:
        """Ask for a save if one is due, or if the epoch is among the best so far."""
        due = jnp.asarray(self.when is None or self.condition.holds(*epoch_of(event.clock)))
        if state is not None and self.retention.monitor is not None:
            value = event.metric(self.retention.monitor)
            state, entered = state.enter(self.retention.with_mode(event.mode).score(value))
            due = due | entered
        return state, Signal.none()._replace(save=due)

    def ranking(self, metrics: Mapping[str, Any]) -> Ranking | None:
        """Return the state that `update` would have come to.

        Args:
            metrics: Name to float32 [epochs], the values of every epoch so far.

        Returns:
            The state; None if no best is kept.
        """
        if self.retention.monitor is None:
            return None
        scores = self.retention.score(np.asarray(metrics[self.retention.monitor]))
        return Ranking.of(scores, self.retention.keep_best)


def checkpoint(
    when: When | None = None,
    *,
    every_epochs: int | None = None,
    keep_last: int | None = 1,
    keep_best: int = 0,
    keep_every_epochs: int | None = None,
    monitor: str | None = None,
    mode: Mode | None = None,
    on_failed_save: OnFailedSave = "raise",
) -> Checkpoint:
    """Save the whole carry from time to time; keep the last, the best and every n-th.

    What is kept is the union of `keep_last`, `keep_best`, `keep_every_epochs` and what
    `Store.pin` pinned; the latest always is. What is to be kept is saved, whatever the cadence:
    an epoch that is among the best so far, and every n-th.

    Without a cadence, `fit` saves about every 30 s, at the end of an epoch if one comes soon,
    and so seldom that saving takes no more than 5 % of the time. In any case it
    saves at the end of the run. With one, each save that is due is made. Within an epoch a run
    is saved at the end of a block, of at most 10 train steps.

    In a loop of one's own, save when `signal.save` says so (`Store` does it); without a cadence
    that is at each epoch's end.

    Args:
        when: When to save, such as `every(steps=1000) | every(seconds=600)`. In a loop of one's
            own, of epochs only.
        every_epochs: Short for `when=every(epochs=...)`.
        keep_last: How many of the newest to keep, at least 1; None keeps all.
        keep_best: How many of the best by `monitor` to keep as well, at least 0.
        keep_every_epochs: Every so many epochs one is kept for good, at least 1; None for none.
        monitor: The metric's name, needed where `keep_best` is not 0.
        mode: Whether "min" or "max" is better. None is as the metric has it, or its name: less of
            a loss or an error, more of an accuracy.
        on_failed_save: What `fit` does, the next time that the loop comes up, about a save that
            failed: "raise" its error, which ends the run, or "warn" of it with a count, and
            again at the end; later saves are tried then.

    Returns:
        A callback whose `retention` holds the arguments for `Store`.

    Raises:
        TypeError: If `when` is no condition.
        ValueError: If an argument is out of its range, or does not go with another; or, when the
            loop is traced, there is no such metric, or its mode is not known.

    Example:
        >>> import odyssey_jax as ody
        >>> saving = ody.checkpoint(every_epochs=5)
        >>> [epoch for epoch in range(12)
        ...  if saving.update(None, ody.Event({}, ody.Clock(0, epoch)))[1].save]
        [4, 9]
    """
    if when is not None and not isinstance(when, When):
        raise TypeError(f"when must be a condition such as every(epochs=5), got {when!r}.")
    if every_epochs is not None:
        every_epochs = check_count("every_epochs", every_epochs, 1)
        if when is not None:
            raise ValueError(
                f"every_epochs={every_epochs} is short for when=every(epochs={every_epochs}): "
                f"join it to when={when!r} with |."
            )
        when = every(epochs=every_epochs)
    if keep_last is not None:
        keep_last = check_count("keep_last", keep_last, 1, " or None for all")
    keep_best = check_count("keep_best", keep_best, 0)
    if keep_every_epochs is not None:
        keep_every_epochs = check_count("keep_every_epochs", keep_every_epochs, 1, " or None")
    if monitor is not None:
        check_monitor(monitor, mode)
    elif keep_best:
        raise ValueError(f"keep_best={keep_best} needs a monitor, such as monitor='valid/loss'.")
    if monitor is not None and not keep_best:
        raise ValueError(f"monitor={monitor!r} is for keep_best, which is 0: say how many to keep.")
    check_words("on_failed_save", on_failed_save, get_args(OnFailedSave))
    retention = Retention(keep_last, keep_best, keep_every_epochs, monitor, mode)
    return Checkpoint(when, retention, on_failed_save)
