"""A set of validation data that is measured in its own way: when, how much of it, and by what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from odyssey_jax._checks import check_count, check_flag
from odyssey_jax._types import MetricLike, cadences_of
from odyssey_jax.callbacks import Moment, When
from odyssey_jax.data import Source
from odyssey_jax.train._metric_set import MetricSet


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Validation data with a cadence, a size and metrics of its own, for `fit(valid=...)`.

    At the end of an epoch at which it is not measured, its columns of the history are NaN, and
    callbacks that monitor one of them skip the epoch: a patience counts evaluations. So a metric
    of integers is one of floats here, and a run under `jax.debug_nans` would stop there.

    Attributes:
        data: The data, of any kind that `fit` takes.
        every: When it is measured, of the evaluations that `fit(validate=...)` makes, which by
            default are the ends of epochs: such as `every(epochs=5)` or `every(steps=5000)`; None
            is all.
        batches: How many batches of a pass are measured; None is all.
        metrics: Name to metric, beside the loss; None is those of `fit`, and `{}` none.
        at_start: Whether it is measured before the first train step as well. These metrics are no
            row of the history, whose rows come after steps, but `FitResult.metrics_at_start`;
            TensorBoard has them at step 0, Weights & Biases and MLflow at epoch -1.

    Raises:
        TypeError: If `every` is no condition, or `data` is an `Evaluation` itself.
        ValueError: If `every` is on other units than epochs and steps, or another argument is out
            of its range.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
        >>> far = ody.Evaluation(
        ...     ody.ArrayDataset(jnp.full(8, 3.0), batch_size=4), every=ody.every(epochs=2),
        ...     batches=1, at_start=True)
        >>> result = ody.fit(task, optax.sgd(0.25), data, {"near": data, "far": far}, epochs=4,
        ...                  writers=[])
        >>> [round(float(x), 2) for x in result.history["valid/far/loss"]]
        [nan, 4.25, nan, 4.02]
        >>> result.metrics_at_start
        {'valid/far/loss': 9.0}
    """

    data: Any
    _: dataclasses.KW_ONLY
    every: When | None = None
    batches: int | None = None
    metrics: Mapping[str, MetricLike] | None = None
    at_start: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.data, Evaluation):
            raise TypeError(f"an Evaluation is of data, got {self.data!r}.")
        if self.every is not None:
            _check_cadence(self.every)
        if self.batches is not None:
            batches = check_count("batches", self.batches, 1, " or None for all")
            object.__setattr__(self, "batches", batches)
        if not isinstance(self.metrics or {}, Mapping):
            raise TypeError(
                "metrics must be a mapping such as {'accuracy': ody.Accuracy()} or None, got "
                f"{self.metrics!r}."
            )
        check_flag("at_start", self.at_start)

    @property
    def options(self) -> EvaluationOptions:
        """What a loop is told of it."""
        metrics = None if self.metrics is None else MetricSet.with_loss(self.metrics)
        return EvaluationOptions(self.every, self.batches, metrics)


def _check_cadence(every: Any) -> None:
    if not isinstance(every, When):
        raise TypeError(f"every must be a condition such as every(epochs=5), got {every!r}.")
    if others := sorted(every.units - {"epochs", "steps"}):
        raise ValueError(
            f"every={every!r}: validation data is measured where fit(validate=...) says, at the "
            f"ends of epochs by default, where {' and '.join(others)} don't count: use epochs= or "
            "steps=."
        )


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """How a loop measures a set of validation data: the static part of an `Evaluation`.

    Attributes:
        every: At the ends of which epochs; None is all.
        batches: How many batches of a pass; None is all.
        metrics: By what; None is as the loop does.
    """

    every: When | None = None
    batches: int | None = None
    metrics: MetricSet | None = None

    def is_due(self, epoch: Any) -> Any:
        """Return whether the set is measured at the end of an epoch.

        Args:
            epoch: The epoch's index, also traced; None is outside of the epochs.

        Returns:
            True where that is certain, and else a bool, of an epoch that is traced an array.
        """
        if self.every is None or epoch is None:
            return True
        return holds_in(self.every, epoch)

    def cut(self, data: Source) -> tuple[int, int]:
        """Return how many whole batches are measured, and the examples of a smaller one after."""
        full, remainder = data.full_batches, data.remainder
        if self.batches is None or self.batches > full:
            return full, remainder
        return self.batches, 0

    def signature(self) -> dict[str, Any]:
        """Return what decides what is measured when, as JSON: a resume compares it."""
        every = None if self.every is None else repr(self.every)
        given = {"every": every, "batches": self.batches}
        return {name: value for name, value in given.items() if value is not None}


def holds_in(when: When, epoch: Any) -> Any:
    """Return whether a condition on epochs holds at the end of one, given its index."""
    return when.holds(Moment(epochs=epoch), Moment(epochs=epoch + 1))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Cadences:
    """Says on the host at the ends of which epochs a metric is measured.

    Attributes:
        sets: Pairs of a prefix, such as "valid/ood", or the name of a hook's column, and the
            condition.

    Example:
        >>> import odyssey_jax as ody
        >>> measured = Cadences((("valid/ood", ody.every(epochs=2)),))
        >>> [measured("valid/ood/loss", epoch) for epoch in range(4)], measured("valid/loss", 0)
        ([False, True, False, True], True)
    """

    sets: tuple[tuple[str, When], ...] = ()

    def __call__(self, name: str, epoch: int) -> bool:
        """Return whether a metric is measured at the end of an epoch."""
        when = dict(self.sets)
        return all(bool(holds_in(when[x], epoch)) for x in cadences_of(name, when))

    def leave_out(self, epochs: int) -> bool:
        """Return whether a metric was not measured in some of the first epochs."""
        return not all(
            bool(holds_in(when, epoch)) for _, when in self.sets for epoch in range(epochs)
        )


def prefix_of(name: str) -> str:
    """Return what the metrics of a set of validation data are named under.

    Example:
        >>> prefix_of(""), prefix_of("ood")
        ('valid', 'valid/ood')
    """
    return f"valid/{name}" if name else "valid"
