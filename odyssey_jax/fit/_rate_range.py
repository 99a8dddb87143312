"""The learning-rate range test: train briefly at ever larger rates, and look at the loss."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from odyssey_jax._checks import check_count
from odyssey_jax._types import Task
from odyssey_jax.data import Source
from odyssey_jax.fit._fit import fit
from odyssey_jax.plots._style import new_axes, save_picture
from odyssey_jax.schedules import exponential_warmup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVE, _SMOOTHED, _MARK = "#BBBBBB", "#0072B2", "#D55E00"


@dataclasses.dataclass(frozen=True)
class RateRange:
    """What `rate_range_test` finds, up to where the loss diverges.

    Attributes:
        rates: Float32 [steps], the learning rates.
        losses: Float32 [steps], the training loss at each rate.
        smoothed: Float64 [steps], their moving average.
        suggestion: The rate at which the loss falls the fastest; None if it never falls.
    """

    rates: np.ndarray = dataclasses.field(repr=False)
    losses: np.ndarray = dataclasses.field(repr=False)
    smoothed: np.ndarray = dataclasses.field(repr=False)
    suggestion: float | None

    def plot(self, path: str | os.PathLike | None = None) -> Figure:
        """Draw the loss by rate, and mark the suggestion.

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
        ax.set_ylabel("training loss")
        ax.legend(frameon=False)
        return save_picture(figure, path)


def rate_range_test(
    task: Task,
    optimizer: Any,
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
    rate that works, with some room. The losses are smoothed by a moving average,
    $\bar{L}_t = (1 - s) \sum_i s^{t-i} L_i / (1 - s^{t+1})$, and cut off where that is not finite
    or `divergence` times its least.

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
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 10:
        raise ValueError(f"steps must be an integer of at least 10, got {steps!r}.")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in the range [0, 1), got {smoothing!r}.")
    if not divergence > 1:
        raise ValueError(f"divergence must be above 1, got {divergence!r}.")
    each = options.get("accumulate_steps", 1)
    check_count("accumulate_steps", each, 1)
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
    smoothed = _smoothed(losses.astype(np.float64), smoothing)
    kept = _before_it_diverges(smoothed, divergence)
    rates, losses, smoothed = rates[:kept], losses[:kept], smoothed[:kept]
    return RateRange(rates, losses, smoothed, _steepest(rates, smoothed))


def _smoothed(losses: np.ndarray, share: float) -> np.ndarray:
    average, found = 0.0, np.empty_like(losses)
    for t, loss in enumerate(losses):
        average = share * average + (1 - share) * loss
        found[t] = average / (1 - share ** (t + 1))
    return found


def _before_it_diverges(smoothed: np.ndarray, divergence: float) -> int:
    """Return how many losses come before one that is too large or not finite."""
    least = np.fmin.accumulate(smoothed)
    # A loss below 0 (a likelihood) has no such multiple: then only what is not finite counts.
    over = ~np.isfinite(smoothed) | ((least > 0) & (smoothed > divergence * least))
    return int(np.argmax(over)) if over.any() else len(smoothed)


def _steepest(rates: np.ndarray, smoothed: np.ndarray) -> float | None:
    until = int(np.argmin(smoothed)) + 1
    if until < 3:
        return None
    slope = np.gradient(smoothed[:until], np.log(rates[:until]))
    at = int(np.argmin(slope))
    return float(rates[at]) if slope[at] < 0 else None
