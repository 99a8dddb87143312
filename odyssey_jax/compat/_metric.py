"""Schedulers that a metric drives, as one object: init, update, and the rate of a state."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from odyssey_jax.compat._arguments import is_sequence
from odyssey_jax.schedules import MetricRule


@dataclasses.dataclass(frozen=True)
class MetricSchedule:
    """A rate that follows a metric: pure functions, for `jit`, `scan` and `vmap`.

    Attributes:
        rule: What `reduce_on_plateau` or `greedy` gave: the rate is its scale.
        group: Which group of parameters, or None where there is but one rate. The schedules of
            several groups have one rule, and a state of any of them is one of all.
    """

    rule: MetricRule
    group: int | None = None

    def init(self) -> Any:
        """Makes the state of a scheduler that has seen no value."""
        return self.rule.init()

    def update(self, state: Any, value: Any) -> Any:
        """Takes the state past a value of the metric; a real scalar."""
        return self.rule.update(state, value)

    def lr(self, state: Any) -> jax.Array:
        """The rate in force; float32 scalar."""
        return state.scale if self.group is None else state.scale[self.group]


def within(rate: Any, least: Any, most: Any = math.inf) -> Any:
    """A rate in its bounds, where it and they are numbers: what a rule of ours may begin with."""
    plain = all(isinstance(x, (int, float)) for x in (rate, least, most))
    return min(max(rate, least), most) if plain and rate >= 0 else rate


def metric_schedules(base_lr: Any, rule: Any) -> Any:
    """One schedule, or one for each group of parameters.

    The peers begin with the rate they are given, whatever its bounds, and so do these.
    """
    first = tuple(base_lr) if is_sequence(base_lr) else base_lr
    rule = dataclasses.replace(rule, init_scale=first)
    if not is_sequence(base_lr):
        return MetricSchedule(rule)
    return tuple(MetricSchedule(rule, group) for group in range(len(base_lr)))
