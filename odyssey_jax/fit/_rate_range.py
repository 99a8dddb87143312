"""The learning-rate range test: train briefly at ever larger rates, and look at the loss."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from odyssey_jax._checks import check_count
from odyssey_jax._types import OptimizerLike, Task
from odyssey_jax.data import Source
from odyssey_jax.fit._fit import fit
from odyssey_jax.plots._style import new_axes, save_picture
from odyssey_jax.schedules import exponential_warmup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OWN = {"epochs", "steps_per_epoch", "validate", "learning_rate", "writers"}
_OWN |= {"log_every_n_steps", "log_outputs"}
_SKIPPED = 5  # steps at the start, which no neighbours before them smooth
_CLEAR = 4.0  # standard deviations of the noise that the loss must fall by
_CURVE, _SMOOTHED, _MARK = "#BBBBBB", "#0072B2", "#D55E00"


@dataclasses.dataclass(frozen=True)
class RateRange:
    """What `rate_range_test` finds, up to where the loss diverges.

    Attributes:
        rates: float32 [steps], the learning rates.
        losses: float32 [steps], the training loss at each rate.
        smoothed: float64 [steps], their moving average.
        suggestion: The rate at which the loss falls the fastest; None if there is no clear slope.
        reason: Why there is no suggestion, or None.
    """

    rates: np.ndarray = dataclasses.field(repr=False)
    losses: np.ndarray = dataclasses.field(repr=False)
    smoothed: np.ndarray = dataclasses.field(repr=False)
    suggestion: float | None
    reason: str | None = None

    def plot(self, path: str | os.PathLike | None = None) -> Figure:
        """Draw the loss by rate, and mark the suggestion; the axis is that of the smoothed loss.

        Args:
            path: Where to save it; the suffix (.png, .svg, .pdf) says in which format. None
                saves nothing.

        Returns:
            The figure: a notebook shows it.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the suffix is not a picture's.
        """
        figure, (ax,) = new_axes(3.6, x="learning rate")
        ax.plot(self.rates, self.losses, color=_CURVE, linewidth=1, label="loss")
        ax.plot(self.rates, self.smoothed, color=_SMOOTHED, linewidth=1.8, label="smoothed")
        if self.suggestion is not None:
            label = f"suggestion {self.suggestion:.2g}"
            ax.axvline(self.suggestion, color=_MARK, linewidth=1, linestyle=":", label=label)
        ax.set_xscale("log")
        # A single loss of a batch may be far above all others.
        low, high = float(self.smoothed.min()), float(self.smoothed.max())
        margin = 0.15 * (high - low) or 0.1 * abs(high) or 1.0
        ax.set_ylim(low - margin, high + margin)
        ax.set_ylabel("training loss")
        ax.legend(frameon=False)
        return save_picture(figure, path)


def rate_range_test(
    task: Task[Any],
    optimizer: OptimizerLike,
    train: Source,
    *,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    divergence: float = 4.0,
    seed: int = 0,
    **options: Any,
) -> RateRange:
    r"""Train at rates that grow by the same factor each step, and suggest one.

    The suggestion is where the smoothed loss falls the fastest by the logarithm of the rate,
    $\operatorname{argmin}_t \, d\bar{L} / d \log \eta_t$ up to its minimum: less than the largest
    rate that works, with some room. The losses are averaged to both sides, so that the curve is
    not late, $\bar{L}_t = \sum_i s^{|t-i|} L_i / \sum_i s^{|t-i|}$, and cut off where the average
    of those before is not finite or `divergence` times its least. The first 5 steps are not
    suggested, and neither is a fall of less than 4 standard deviations of the noise.

    Args:
        task: As for `fit`; what it trains is discarded.
        optimizer: A function of the learning rate, such as `optax.adamw`.
        train: The training data.
        start: The first rate, above 0.
        end: The last rate, above the first.
        steps: Updates of the parameters, at least 10: train steps, or with `accumulate_steps`
            among the options so many times as many.
        smoothing: The share $s$ of the past, in [0, 1).
        divergence: Above 1.
        seed: As for `fit`.
        **options: Other arguments of `fit`, such as `clip_norm`.

    Returns:
        Rates, losses, and the suggestion.

    Raises:
        ValueError: If an argument is out of its range, or the first loss is not finite.

    Source:
        Smith, "Cyclical Learning Rates for Training Neural Networks" (2017); fastai's `lr_find`.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
        >>> found = ody.rate_range_test(task, optax.sgd, data)
        >>> 0.01 < found.suggestion < 1
        True
    """
    if not 0 < start < end < float("inf"):
        raise ValueError(f"start and end must be 0 < start < end, got {start!r} and {end!r}.")
    steps = check_count("steps", steps, 10)
    if own := sorted(options.keys() & _OWN):
        raise ValueError(
            f"rate_range_test sets {', '.join(own)} itself: leave it out, and say by steps=, "
            "start= and end= what is tried."
        )
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in the range [0, 1), got {smoothing!r}.")
    if not divergence > 1:
        raise ValueError(f"divergence must be above 1, got {divergence!r}.")
    each = check_count("accumulate_steps", options.get("accumulate_steps", 1), 1)
    result = fit(
        task,
        optimizer,
        train,
        epochs=1,
        steps_per_epoch=steps * each,
        learning_rate=exponential_warmup(end, steps - 1, start),
        log_every_n_steps=1,
        log_outputs=("loss", "learning_rate"),
        seed=seed,
        writers=[],
        **options,
    )
    # The steps that make one update have one rate, and their mean loss.
    rates, losses = (
        result.samples[name][: result.steps // each * each].reshape(-1, each).mean(axis=1)
        for name in ("learning_rate", "loss")
    )
    kept = _before_it_diverges(losses.astype(np.float64), smoothing, divergence)
    rates, losses = rates[:kept], losses[:kept]
    smoothed, spread = _smoothed(losses.astype(np.float64), smoothing)
    return RateRange(rates, losses, smoothed, *_steepest(rates, smoothed, spread))


def _trailing(losses: np.ndarray, share: float) -> np.ndarray:
    """Return the average of what was before each loss, which an explosion does not reach."""
    average, found = 0.0, np.empty_like(losses)
    for t, loss in enumerate(losses):
        average = share * average + (1 - share) * loss
        found[t] = average / (1 - share ** (t + 1))
    return found


def _before_it_diverges(losses: np.ndarray, share: float, divergence: float) -> int:
    """Return how many losses there are before their average is too large, or is no number."""
    average = _trailing(losses, share)
    least = np.fmin.accumulate(average)
    # A loss below 0 (a likelihood) has no such multiple: then only what is not finite counts.
    over = ~np.isfinite(average) | ((least > 0) & (average > divergence * least))
    kept = int(np.argmax(over)) if over.any() else len(average)
    if kept == 0:
        raise ValueError("the first loss is not finite: there is no rate to find.")
    return kept


def _smoothed(losses: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses averaged to both sides, and the standard deviation of each average.

    What rises above all losses before the minimum is cut off there: it would move the minimum.
    """
    lowest = int(np.argmin(_trailing(losses, share)))
    clipped = np.minimum(losses, losses[: lowest + 1].max())
    place = np.arange(len(losses))
    weights = share ** np.abs(place[:, None] - place).astype(float)
    weights /= weights.sum(axis=1, keepdims=True)
    # Second differences have nothing of a slope, and 6 times the variance of the noise. Their
    # median, 0.67 standard deviations, has nothing of an explosion.
    bends = np.abs(np.diff(losses, 2))
    noise = np.median(bends) / 0.6745 / np.sqrt(6) if bends.size else 0.0
    return weights @ clipped, noise * np.sqrt((weights**2).sum(axis=1))


def _steepest(
    rates: np.ndarray, smoothed: np.ndarray, spread: np.ndarray
) -> tuple[float | None, str | None]:
    """Return the rate of the steepest fall that is no noise; or None, and why."""
    until = int(np.argmin(smoothed)) + 1
    if until < _SKIPPED + 3:
        return None, "the loss never falls: try a smaller start"
    fallen = np.cumsum(smoothed[:until]) / np.arange(1, until + 1) - smoothed[:until]
    clear = np.flatnonzero((fallen > _CLEAR * spread[:until]) & (np.arange(until) >= _SKIPPED))
    if not clear.size:
        return None, (
            "the loss has no clear slope: it falls by less than its noise; try more steps, larger "
            "batches or more smoothing"
        )
    slope = np.gradient(smoothed[:until], np.log(rates[:until]))
    return float(rates[clear[np.argmin(slope[clear])]]), None
