"""How long a run is, and how it is cut: epochs are of the data, rows of the history evaluations."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from odyssey_jax._checks import check_count
from odyssey_jax.callbacks import Every, When, convert
from odyssey_jax.data import Source
from odyssey_jax.fit._hooks import Hook
from odyssey_jax.train import Evaluation

_LAST_STEP = 2**31 - 1  # of a clock in int32


class Length(NamedTuple):
    """The length of a run and of its parts, in train steps.

    Attributes:
        steps: Of the whole run.
        interval: From one evaluation, and row of the history, to the next.
        epoch: Of an epoch: a pass over the data, or `steps_per_epoch`; None where it is not known.
    """

    steps: int
    interval: int
    epoch: int | None

    @property
    def rows(self) -> int:
        """The evaluations of the whole run; the last one may come early, with the run's end."""
        return -(-self.steps // self.interval)

    @property
    def rows_are_epochs(self) -> bool:
        """Whether each evaluation ends an epoch."""
        return self.epoch == self.interval and self.steps % self.interval == 0

    @property
    def unit(self) -> str:
        """What rows are called in sentences."""
        return "epoch" if self.rows_are_epochs else "evaluation"

    def epochs(self, step: int) -> int:
        """Return the epochs that are over after so many steps."""
        return step // (self.epoch or self.interval)

    def in_rows(self, when: When, what: str) -> When:
        """Return a condition on epochs and steps as one on rows, which a program counts.

        Raises:
            ValueError: If one of its marks lies between two evaluations.
        """

        def marks(unit: Any, number: int) -> int:
            each = 1 if unit == "steps" else self.epoch
            if each is None:
                raise ValueError(f"{what}={when!r}: how long an epoch is is not known: use steps=.")
            if number * each % self.interval:
                raise ValueError(
                    f"{what}={when!r}: {unit}={number} is no multiple of the {self.interval} train "
                    "steps from one evaluation to the next: choose one, or another "
                    "fit(validate=ody.every(steps=...))."
                )
            return number * each // self.interval

        if self.rows_are_epochs and when.units <= {"epochs"}:
            return when
        return convert(when, "epochs", marks)

    def with_hooks(self, hooks: tuple[Hook, ...]) -> tuple[Hook, ...]:
        """Return hooks whose columns are measured at rows."""
        in_rows = lambda x: dataclasses.replace(x, when=self.in_rows(x.when, "when"))
        return tuple(in_rows(x) if x.columns else x for x in hooks)

    def with_evaluations(self, evaluations: dict[str, Evaluation]) -> dict[str, Evaluation]:
        """Return evaluations whose cadences are of rows."""
        in_rows = lambda x: dataclasses.replace(x, every=self.in_rows(x.every, "every"))
        return {k: x if x.every is None else in_rows(x) for k, x in evaluations.items()}


def length_of(
    train: Source, epochs: Any, steps: Any, steps_per_epoch: Any, validate: Any
) -> Length:
    """Return the length of a run, as `fit` is asked for it.

    Raises:
        TypeError: If `validate` is no condition.
        ValueError: If not exactly one of `epochs` and `steps` is given, an argument is out of its
            range, or a length that is needed is not known.
    """
    if (epochs is None) == (steps is None):
        raise ValueError(
            f"fit takes exactly one of epochs and steps, got epochs={epochs!r} and steps={steps!r}."
        )
    if steps_per_epoch is not None:
        steps_per_epoch = check_count("steps_per_epoch", steps_per_epoch, 1)
    epoch = train.steps_per_pass if steps_per_epoch is None else steps_per_epoch
    interval = epoch if validate is None else _interval(validate, epoch)
    if epoch is None and (interval is None or epochs is not None):
        raise ValueError(
            f"steps_per_epoch must be given: how many batches {train!r} has is not known."
            + ("" if steps is None else " Or say when to evaluate: validate=ody.every(steps=...).")
        )
    assert interval is not None
    if steps is not None:
        return Length(check_count("steps", steps, 1), interval, epoch)
    assert epoch is not None
    total = check_count("epochs", epochs, 1) * epoch
    if total > _LAST_STEP:
        raise ValueError(
            f"epochs={epochs} of {epoch} train steps are {total:,} steps, and the clock "
            f"counts to 2**31 - 1: choose at most {_LAST_STEP // epoch:,} epochs, also "
            "as a bound that is never reached."
        )
    return Length(total, interval, epoch)


def _interval(validate: Any, epoch: int | None) -> int:
    if not isinstance(validate, When):
        raise TypeError(
            f"validate must be a condition such as every(steps=1000), got {validate!r}."
        )
    if not isinstance(validate, Every) or validate.unit not in ("steps", "epochs"):
        raise ValueError(
            f"validate={validate!r} must be every(steps=...) or every(epochs=...), alone: the rows "
            "of the history are as far apart. A set of validation data that is measured at some of "
            "them is an Evaluation(every=...)."
        )
    if validate.unit == "steps":
        return validate.number
    if epoch is None:
        raise ValueError(f"validate={validate!r}: how long an epoch is is not known: use steps=.")
    return validate.number * epoch
