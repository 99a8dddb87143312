"""Let a metric of the loop decide the scale of the learning rate."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from odyssey_jax._checks import check_monitor
from odyssey_jax._types import Event, Point, Signal
from odyssey_jax.schedules import Greedy, MetricRule, ReduceOnPlateau
from odyssey_jax.transforms import check_rule, has_scale, with_scale_moved


@dataclasses.dataclass(frozen=True)
class AdaptRate:
    """The callback that `adapt_rate` makes; its state is the rule's."""

    monitor: str
    rule: MetricRule

    asks_to_save = False
    asks_to_stop = False

    @property
    def points(self) -> tuple[Point, ...]:
        """The end of an epoch."""
        return (Point.EPOCH_END,)

    def init(self, event: Event) -> Any:
        """Make the rule's first state; refuse an optimizer that has no scale to set."""
        event.metric(self.monitor)
        self._rule(event)  # raises where the mode is not known
        if not has_scale(event.state.opt_state):
            raise ValueError(
                "adapt_rate finds no scale to set in the optimizer's state: put "
                "scale_by_callback() behind the learning rate, as in "
                "optimizer=lambda rate: optax.chain(optax.adamw(rate), ody.scale_by_callback())."
            )
        return self._rule(event).init()

    def update(self, state: Any, event: Event) -> tuple[Any, Signal]:
        """Take the rule past the epoch's metric, and hand its scale to the optimizer."""
        new = self._rule(event).update(state, event.metric(self.monitor))
        new = event.where_measured(self.monitor, new, state)
        opt_state = with_scale_moved(event.state.opt_state, state.scale, new.scale)
        return new, Signal.none()._replace(state=event.state._replace(opt_state=opt_state))

    def _rule(self, event: Event) -> MetricRule:
        """Return the rule; one of ours that was given no mode has the metric's."""
        if not isinstance(self.rule, ReduceOnPlateau | Greedy) or self.rule.mode is not None:
            return self.rule
        return dataclasses.replace(self.rule, mode=event.mode(self.monitor))  # pyright: ignore


@jax.transfer_guard("allow")  # of the rule's numbers
def adapt_rate(monitor: str, rule: MetricRule) -> AdaptRate:
    """Scale the learning rate, whatever its schedule, by a rule that follows a metric.

    At the end of each epoch the rule is given the metric, where it was measured there (see
    `Evaluation`), and its scale is in force from the next update on. The optimizer needs
    `scale_by_callback()` behind its learning rate: there the scale is kept, and so it is saved and
    resumed with the run. The logged "learning_rate" is the one in force, scale included.

    The hyper-parameters are no part of the state: another patience applies from the resume on.

    Args:
        monitor: The metric's name, such as "valid/loss".
        rule: Such as `reduce_on_plateau(...)` or `greedy(...)`; which way is better is its
            `mode`, and where that is None as the metric has it, or its name. Its scale is a
            scalar that begins at 1.

    Returns:
        A callback, for `fit`, `Loop` or a loop of one's own.

    Raises:
        ValueError: If an argument is out of its range; or, when the loop is traced, there is no
            such metric, or no `scale_by_callback` in the optimizer.
        TypeError: If `rule` is no rule.

    Source:
        `keras.callbacks.ReduceLROnPlateau`.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.array([0.0, 2.0]), batch_size=1)
        >>> result = ody.fit(
        ...     task, lambda rate: optax.chain(optax.sgd(rate), ody.scale_by_callback()),
        ...     data, data, epochs=8, learning_rate=0.5, writers=[],
        ...     callbacks=ody.adapt_rate("valid/loss", ody.reduce_on_plateau(0.5, patience=1)))
        >>> [float(rate) for rate in result.history["learning_rate"]]
        [0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25]
    """
    check_monitor(monitor)
    check_rule(rule)
    first = jax.device_get(rule.init().scale)
    if jnp.ndim(first) != 0 or first != 1:
        raise ValueError(
            "adapt_rate multiplies a schedule, so the scale of its rule must be a scalar that "
            f"begins at 1; got init_scale = {first.tolist()!r}. The first rate is the schedule's."
        )
    return AdaptRate(monitor, rule)
