"""Stop a run whose monitored metric no longer improves."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from odyssey_jax._checks import (
    check_count,
    check_factor_of_growth,
    check_finite,
    check_flag,
    check_margin,
    check_monitor,
    check_share,
    check_words,
)
from odyssey_jax._types import Event, Mode, NanPolicy, Point, PyTree, Signal, StopReason
from odyssey_jax.callbacks._callback import Best, ShortRepr
from odyssey_jax.callbacks._tracking import (
    beats,
    diverges,
    init_best,
    is_better,
    keep_best,
    with_mode,
)
from odyssey_jax.schedules import no_average, observed, smoothed
from odyssey_jax.transforms import has_scale, scale_of


class Cooldown(NamedTuple):
    """What a cooldown needs to know.

    Attributes:
        scale: float32 scalar, the learning rate's scale when it was looked at last.
        left: int32 scalar, the epochs that are still free.
    """

    scale: jax.Array
    left: jax.Array


class EarlyStoppingState(NamedTuple):
    """The state of `early_stopping`.

    Attributes:
        best: The best epoch so far.
        wait: int32 scalar, the number of epochs since without improvement.
        average: float32 or float64 scalar, the smoothed metric, the largest number before there
            is one; None without smoothing.
        cooldown: None without one.
    """

    best: Best
    wait: jax.Array
    average: jax.Array | None = None
    cooldown: Cooldown | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class EarlyStopping(ShortRepr):
    """The callback that `early_stopping` makes."""

    monitor: str
    patience: int
    min_delta: float = 0.0
    rtol: float = 0.0
    mode: Mode | None = None
    baseline: float | None = None
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None
    divergence_factor: float | None = None
    nan: NanPolicy | Literal["stop"] = "bad"
    smoothing: float = 0.0
    cooldown: int = 0
    start_from_epoch: int = 0
    min_epochs: int = 0
    restore_best: bool = False

    asks_to_save = False

    @property
    def points(self) -> tuple[Point, ...]:
        """The end of an epoch and, to restore the best, of the training."""
        return (Point.EPOCH_END, Point.TRAIN_END) if self.restore_best else (Point.EPOCH_END,)

    def best(self, state: EarlyStoppingState) -> Best:
        """Return the best epoch so far, for a loop of one's own."""
        return state.best

    def init(self, event: Event) -> EarlyStoppingState:
        """Make the state of a run that has seen no epoch."""
        if self.cooldown and not has_scale(event.state.opt_state):
            raise ValueError(
                f"cooldown={self.cooldown} counts from a cut of the learning rate by a callback, "
                "and there is none in the optimizer's state: put scale_by_callback() behind the "
                "learning rate (see adapt_rate), or leave cooldown out."
            )
        best = init_best(event, self.monitor, snapshot=self.restore_best)
        mode = self.mode or event.mode(self.monitor)
        _check_apart(self.stopping_threshold, self.divergence_threshold, mode)
        return EarlyStoppingState(
            best=best,
            wait=jnp.zeros((), jnp.int32),
            average=no_average(best.value.dtype) if self.smoothing else None,
            cooldown=Cooldown(jnp.ones((), jnp.float32), jnp.zeros((), jnp.int32))
            if self.cooldown
            else None,
        )

    def update(self, state: EarlyStoppingState, event: Event) -> tuple[EarlyStoppingState, Signal]:
        """Count an epoch; at the end of the training give back the best parameters."""
        if event.point is Point.TRAIN_END:
            return state, Signal.none()._replace(state=restored(state.best, event))
        if self.mode is None:
            return with_mode(self, event).update(state, event)
        metric = event.metric(self.monitor)
        counts = self._counts(metric, event)
        average, value = self._smooth(state.average, metric)
        cooldown, free = self._cool(state.cooldown, event)
        better = counts & is_better(
            value, state.best, self._known_mode, rtol=self.rtol, atol=self.min_delta
        )
        wait = jnp.where(free | (better & self._beats_baseline(value)), 0, state.wait + 1)
        new = EarlyStoppingState(
            best=keep_best(state.best, event, value, better),
            wait=jnp.where(counts, wait, state.wait),
            average=_choose(counts, average, state.average),
            cooldown=_choose(counts, cooldown, state.cooldown),
        )
        stop = self._verdict(value, state.best, wait, event)
        may_stop = counts & self._has_trained(self.min_epochs, event)
        return new, Signal.stop_if(may_stop, stop.stop, stop.detail)

    # What is not asked for is a constant below, and so no part of the compiled program.

    @property
    def _known_mode(self) -> Mode:
        assert self.mode is not None  # `update` has looked it up
        return self.mode

    def _counts(self, metric: jax.Array, event: Event) -> jax.Array:
        """Return whether the epoch is looked at, at all."""
        counts = self._has_trained(self.start_from_epoch + 1, event)
        counts = counts & ~jnp.isnan(metric) if self.nan == "ignore" else counts
        return event.where_measured(self.monitor, counts, False)

    def _has_trained(self, epochs: int, event: Event) -> jax.Array:
        return _epochs_done(event) >= epochs if epochs > 1 else jnp.ones((), bool)

    def _smooth(self, average: Any, metric: jax.Array) -> tuple[Any, jax.Array]:
        """Return the new average, and the value to judge."""
        if average is None:
            return None, metric
        wide = observed(metric)
        if average.dtype == jnp.float64:
            wide = wide._replace(high=metric, low=jnp.zeros_like(metric))
        average, value = smoothed(average, wide, self.smoothing)
        return average, value.high

    def _cool(self, cooldown: Cooldown | None, event: Event) -> tuple[Cooldown | None, Any]:
        """Return the new cooldown and whether the epoch is free; a cut makes the next few so."""
        if cooldown is None:
            return None, jnp.zeros((), bool)
        scale = scale_of(event.state.opt_state)
        left = jnp.where(scale < cooldown.scale, self.cooldown, cooldown.left)
        return Cooldown(scale, jnp.maximum(left - 1, 0)), left > 0

    def _beats_baseline(self, value: jax.Array) -> jax.Array:
        if self.baseline is None:
            return jnp.ones((), bool)
        return beats(value, self.baseline, self._known_mode, rtol=self.rtol, atol=self.min_delta)

    def _verdict(self, value: jax.Array, best: Best, wait: jax.Array, event: Event) -> Signal:
        """Return the first of the reasons to stop."""
        signal, step = Signal.none(), event.clock.step
        if self.nan == "stop":
            signal = signal.merge(Signal.stop_if(~jnp.isfinite(value), StopReason.NOT_FINITE, step))
        if self.stopping_threshold is not None:
            reached = beats(value, self.stopping_threshold, self._known_mode)
            done = _epochs_done(event)
            signal = signal.merge(Signal.stop_if(reached, StopReason.THRESHOLD, done))
        bounds = (self.divergence_threshold, self.divergence_factor)
        if bounds != (None, None):
            so_far = jnp.where(best.seen, best.value, value)  # nothing is worse than itself
            diverged = diverges(value, so_far, self._known_mode, *bounds)
            signal = signal.merge(Signal.stop_if(diverged, StopReason.DIVERGED, step))
        tired = wait >= max(self.patience, 1)  # patience 0: at the first bad epoch
        return signal.merge(Signal.stop_if(tired, StopReason.NO_IMPROVEMENT, wait))


def restored(best: Best, event: Event):
    """Return the train state with the best parameters, once any epoch has been seen."""
    now = (event.state.params, event.state.model_state)
    params, model_state = jax.tree.map(lambda b, n: jnp.where(best.seen, b, n), best.snapshot, now)
    return event.state._replace(params=params, model_state=model_state)


def _epochs_done(event: Event) -> jax.Array:
    return jnp.asarray(event.clock.epoch, jnp.int32) + 1


def _choose(condition: jax.Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def early_stopping(
    monitor: str,
    patience: int,
    *,
    min_delta: float = 0.0,
    rtol: float = 0.0,
    mode: Mode | None = None,
    baseline: float | None = None,
    stopping_threshold: float | None = None,
    divergence_threshold: float | None = None,
    divergence_factor: float | None = None,
    nan: NanPolicy | Literal["stop"] = "bad",
    smoothing: float = 0.0,
    cooldown: int = 0,
    start_from_epoch: int = 0,
    min_epochs: int = 0,
    restore_best: bool = False,
) -> EarlyStopping:
    r"""Stop when a metric has not improved for `patience` epochs.

    With $m_t$ the metric of epoch $t$ and $b$ the best so far, epoch $t$ improves if (mode "min")

    $$m_t < b - (r \, |b| + \delta)$$

    and in mode "max" if $m_t > b + (r |b| + \delta)$: strictly, so that a flat metric does not.
    The first value always improves; NaN never does; infinities are values like any other. The
    run stops once `patience` epochs in a row have not improved (with a patience of 0 or 1, at the
    first). Several criteria are joined by `chain`, `any_of` and `all_of`.

    Of an `Evaluation` that is not measured in every epoch, the epochs in between are skipped: what
    is said here of epochs is then of evaluations, but for `start_from_epoch` and `min_epochs`.

    The hyper-parameters are no part of the state: another patience applies from the resume on.
    Only `smoothing`, `cooldown` and `restore_best` keep something there, so a run goes on with
    those of them that it was begun with, and with no others.

    Args:
        monitor: The metric's name, such as "valid/loss".
        patience: Epochs without improvement after which to stop, at least 0.
        min_delta: The least change that counts, $\delta$, at least 0.
        rtol: The least change that counts as a share of the best value's magnitude, $r$, at least
            0; the two are added.
        mode: Whether "min" or "max" is better. None is as the metric has it, or its name: less of
            a loss or an error, more of an accuracy.
        baseline: A value to be beaten: until it is, no epoch counts as an improvement, but the
            best one is kept. None is none.
        stopping_threshold: A value that is good enough: a better one stops the run at once.
        divergence_threshold: A value that is too bad: a worse one stops the run at once.
        divergence_factor: The same relative to the best so far, greater than 1: stops at a value
            that is worse than $b$ by more than $(k - 1) |b|$; for a loss above 0, at one above
            $k b$.
        nan: Whether NaN is a "bad" value, or one to "ignore", as if the epoch had not been; or
            to "stop" at, together with the infinities.
        smoothing: The share of the past in an exponential moving average of the metric, which is
            what is then judged and kept as the best value; in [0, 1). Values that are not finite
            enter no average, and are judged as they are.
        cooldown: Epochs, after a callback has cut the learning rate (`adapt_rate`, `roll_back`),
            in which none is bad; the count then begins anew. They are those trained at the lower
            rate where this callback comes before the other; else the one before them is the
            first. At least 0.
        start_from_epoch: The index of the first epoch to look at, at least 0: those before it
            neither count nor can they be the best.
        min_epochs: Epochs that are done whatever the metric, at least 0. They count as any others.
        restore_best: Whether the result holds the parameters (and the model state) of the best
            epoch. Keeps one copy of them in the carry. Checkpoints hold the latest ones beside
            it, so a run that is continued continues from where it was.

    Returns:
        A callback, for `fit`, `Loop` or a loop of one's own.

    Raises:
        ValueError: If an argument is out of its range; or, when the loop is traced, there is no
            such metric, or with a cooldown no `scale_by_callback` in the optimizer.

    Source:
        Prechelt, "Early Stopping - But When?" (1998), criterion UP; semantics as Lightning's, the
        baseline's and `start_from_epoch`'s as Keras'.

    Example:
        In a loop of one's own:

        >>> import odyssey_jax as ody
        >>> stopping = ody.early_stopping("valid/loss", patience=2)
        >>> event = lambda epoch, loss: ody.Event({"valid/loss": loss}, ody.Clock(epoch, epoch))
        >>> state = stopping.init(event(0, 0.0))
        >>> for epoch, loss in enumerate([6.0, 5.0, 5.0, 5.0, 4.0]):
        ...     state, signal = stopping.update(state, event(epoch, loss))
        ...     if signal.stop:
        ...         break
        >>> epoch, ody.StopReason(int(signal.stop)).sentence(int(signal.detail))
        (3, 'no improvement for 2 epochs')
    """
    check_monitor(monitor, mode)
    counts = {"patience": patience, "cooldown": cooldown}
    counts |= {"start_from_epoch": start_from_epoch, "min_epochs": min_epochs}
    counts = {name: check_count(name, value) for name, value in counts.items()}
    check_margin("min_delta", min_delta)
    check_margin("rtol", rtol)
    check_finite("baseline", baseline)
    check_finite("stopping_threshold", stopping_threshold)
    check_finite("divergence_threshold", divergence_threshold)
    check_factor_of_growth("divergence_factor", divergence_factor)
    if mode is not None:
        _check_apart(stopping_threshold, divergence_threshold, mode)
    check_words("nan", nan, ("stop", "bad", "ignore"))
    check_share("smoothing", smoothing)
    check_flag("restore_best", restore_best)
    return EarlyStopping(
        monitor=monitor,
        min_delta=float(min_delta),
        rtol=float(rtol),
        mode=mode,
        baseline=baseline,
        stopping_threshold=stopping_threshold,
        divergence_threshold=divergence_threshold,
        divergence_factor=divergence_factor,
        nan=nan,
        smoothing=float(smoothing),
        restore_best=restore_best,
        **counts,
    )


def _check_apart(good: float | None, bad: float | None, mode: Mode) -> None:
    """Raise ValueError unless there are values to train at between the two thresholds."""
    if good is None or bad is None or (good < bad if mode == "min" else good > bad):
        return
    order = "less" if mode == "min" else "greater"
    raise ValueError(
        f"stopping_threshold must be {order} than divergence_threshold in mode {mode!r}, or every "
        f"value stops; got stopping_threshold={good!r}, divergence_threshold={bad!r}."
    )
