"""Raise the rate while a metric improves, and cut it when it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from odyssey_jax._pytree import node
from odyssey_jax.schedules._fields import (
    NOT_NEGATIVE,
    OPEN_SHARE,
    checked,
    choice,
    count,
    field,
    require_order,
)
from odyssey_jax.schedules._metric_rules import (
    Mode,
    NanPolicy,
    RelativeTo,
    Rule,
    first_scale,
    lowered,
    one_more,
    raised,
    require_first_between,
    require_scales,
    scales,
    whole,
    worst,
)
from odyssey_jax.schedules._numbers import Wide, canonical, choose


class GreedyState(NamedTuple):
    """The state of `greedy`.

    Attributes:
        scale: float32, the scale in force; of the shape of the rule's scales.
        best: The best value so far, as float32 `high + low`; before there is one, the largest
            number.
        good: int32 scalar, the good values in a row.
        wait: int32 scalar, the bad values in a row.
        cooldown: int32 scalar, the values after a cut that still don't count.
        warmup: int32 scalar, the values after a raise that still don't count.
        at_min: int32 scalar, the cuts since the last raise that found the scale at its least.
        window: float32 [window], the last values.
        filled: int32 scalar, how many of them there are.
        slot: int32 scalar, where in the window the next one goes.
    """

    scale: jax.Array
    best: Wide
    good: jax.Array
    wait: jax.Array
    cooldown: jax.Array
    warmup: jax.Array
    at_min: jax.Array
    window: jax.Array
    filled: jax.Array
    slot: jax.Array


def _require_window(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1; got {name} = {value!r}.")
    return value


@node
class Greedy(Rule):
    """The rule that `greedy` makes: numbers are leaves, choices are static."""

    min_scale: Any = field(require_scales)
    max_scale: Any = field(require_scales)
    factor: Any = field(OPEN_SHARE)
    patience: Any = field(count())
    rtol: Any = field(NOT_NEGATIVE)
    atol: Any = field(NOT_NEGATIVE)
    cooldown: Any = field(count())
    warmup: Any = field(count())
    init_scale: Any = field(require_scales)
    eps: Any = field(require_scales)
    reset_start: Any = field(count(1), optional=True)
    window: int = field(_require_window, static=True)
    mode: Mode | None = choice(Mode, optional=True)
    relative_to: RelativeTo = choice(RelativeTo)
    nan: NanPolicy = choice(NanPolicy)

    def init(self) -> GreedyState:
        """Make the state of a rule that has seen no value.

        Returns:
            The state, whose structure, shapes and dtypes are final.
        """
        rule = jax.tree.map(canonical, self)
        none = jnp.zeros((), jnp.int32)
        return GreedyState(
            scale=first_scale(rule.init_scale, rule.min_scale, rule.max_scale, rule.eps),
            best=worst(self.known_mode),
            good=none,
            wait=none,
            cooldown=none,
            warmup=none,
            at_min=none,
            window=jnp.zeros(self.window, jnp.float32),
            filled=none,
            slot=none,
        )

    def check(self) -> None:
        """Raise ValueError unless the scales are in order."""
        require_order("min_scale", self.min_scale, "max_scale", self.max_scale)
        require_first_between(
            min_scale=self.min_scale, init_scale=self.init_scale, max_scale=self.max_scale
        )

    def advance(self, state: GreedyState, value: Wide) -> GreedyState:
        """Return the state past a value, judged unless the rule rests."""
        mean, state = _slide(state, value)
        resting = (state.cooldown > 0) | (state.warmup > 0)
        return choose(resting, self._rest(state), self._judge(state, mean))

    def _rest(self, state: GreedyState) -> GreedyState:
        cooling = state.cooldown > 0
        return state._replace(
            good=jnp.zeros_like(state.good),
            wait=jnp.zeros_like(state.wait),
            cooldown=jnp.maximum(state.cooldown - 1, 0),
            warmup=jnp.where(cooling, state.warmup, jnp.maximum(state.warmup - 1, 0)),
        )

    def _judge(self, state: GreedyState, value: Wide) -> GreedyState:
        better = self.better(value, state.best)
        state = state._replace(
            best=choose(better, value, state.best),
            good=jnp.where(better, one_more(state.good), 0),
            wait=jnp.where(better, 0, one_more(state.wait)),
        )
        patience = whole(self.patience)
        state = choose(state.good > patience, self._raise(state), state)
        return choose(state.wait > patience, self._cut(state), state)

    def _raise(self, state: GreedyState) -> GreedyState:
        return state._replace(
            scale=raised(state.scale, self.factor, self.max_scale, self.eps),
            good=jnp.zeros_like(state.good),
            warmup=whole(self.warmup),
            at_min=jnp.zeros_like(state.at_min),
        )

    def _cut(self, state: GreedyState) -> GreedyState:
        scale = lowered(state.scale, self.factor, self.min_scale, self.eps)
        at_min = state.at_min + jnp.all(scale <= scales(self.min_scale)).astype(jnp.int32)
        state = state._replace(
            scale=scale,
            wait=jnp.zeros_like(state.wait),
            cooldown=whole(self.cooldown),
            at_min=at_min,
        )
        if self.reset_start is None:
            return state
        # With nothing filled, what is in the window is of no account.
        anew = self.init()._replace(cooldown=state.cooldown, window=state.window)
        return choose((at_min > 0) & (at_min >= whole(self.reset_start)), anew, state)


def _slide(state: GreedyState, value: Wide) -> tuple[Wide, GreedyState]:
    """Return the mean of the window with the value in it; not finite is judged as it is."""
    size = state.window.shape[0]
    finite = jnp.isfinite(value.high)
    # In place: a copy of the whole window, for each value, is what would cost something.
    new = jnp.where(finite, value.high, state.window[state.slot])
    window = jax.lax.dynamic_update_index_in_dim(state.window, new, state.slot, axis=0)
    filled = jnp.where(finite, jnp.minimum(state.filled + 1, size), state.filled)
    there = jnp.arange(size, dtype=jnp.int32) < filled
    count = jnp.maximum(filled, 1).astype(jnp.float32)
    high = jnp.sum(jnp.where(there, window, 0.0)) / count
    # What the mean is off by: so that of equal values is that value to the bit.
    rest = jnp.sum(jnp.where(there, window - high, 0.0)) / count
    mean = Wide(high, value.low if size == 1 else rest)
    slot = jnp.where(finite, (state.slot + 1) % size, state.slot)
    return choose(finite, mean, value), state._replace(window=window, filled=filled, slot=slot)


def greedy(
    min_scale: ArrayLike | Sequence[ArrayLike],
    max_scale: ArrayLike | Sequence[ArrayLike],
    factor: ArrayLike | Sequence[ArrayLike] = 0.95,
    patience: ArrayLike = 10,
    rtol: ArrayLike = 0.0,
    atol: ArrayLike = 1e-6,
    cooldown: ArrayLike = 0,
    warmup: ArrayLike = 0,
    *,
    mode: Mode | None = None,
    relative_to: RelativeTo = "magnitude",
    init_scale: ArrayLike | Sequence[ArrayLike] = 1.0,
    eps: ArrayLike = 0.0,
    window: int = 1,
    reset_start: ArrayLike | None = None,
    nan: NanPolicy = "bad",
) -> Greedy:
    r"""Raise a scale while a metric improves, and cut it when it does not.

    With the best value $b$ so far, a value $m$ is good, and the new best, if (mode "min")

    $$m < b - (r \, |b| + a)$$

    and else it is bad; in mode "max", if $m > b + (r |b| + a)$. After more good values in a row
    than the patience the scale $s$ becomes $\min(s / f, s_\mathrm{max})$, after more bad ones
    $\max(s f, s_\mathrm{min})$, and the counts begin again. The scale multiplies any schedule; see
    `scale_by_metric` for an Optax chain and `adapt_rate` for the loop.

    Args:
        min_scale: The least scale, $s_\mathrm{min}$; at least 0, or a sequence of such.
        max_scale: The greatest scale, $s_\mathrm{max}$; at least 0, or a sequence of such.
        factor: What a cut multiplies by and a raise divides by, $f$; in (0, 1).
        patience: The good or bad values that change nothing yet; a whole number, at least 0.
        rtol: The margin as a share of the best value, $r$; at least 0.
        atol: The margin itself, $a$; at least 0.
        cooldown: Values after a cut that don't count; a whole number, at least 0.
        warmup: Values after a raise that don't count; a whole number, at least 0.
        mode: Whether "min" or "max" is better. None is "min", and in `adapt_rate` as the metric has
            it, or its name.
        relative_to: Of what `rtol` is a share. The "magnitude" of the best value; or the "value"
            with its sign, as in transformers: there a margin is negative where the metric is.
        init_scale: The first scale; in [min_scale, max_scale]. For a rate by itself, without a
            schedule, give it here. A sequence is a scale for each of several groups that share
            the decisions.
        eps: A change of the scale by no more than this is left out; at least 0, or a sequence of
            such.
        window: Values whose mean is judged, the last ones; an integer, at least 1. Values that are
            not finite enter no mean and are judged as they are.
        reset_start: Cuts that leave every scale at its least, without a raise between them, after
            which all begins anew from `init_scale`; a whole number, at least 1. The cut that gets
            there is the first of them. None never begins anew.
        nan: Whether NaN is a "bad" value, or one to "ignore".

    Returns:
        A rule: `init() -> state` and `update(state, value) -> state`, with the scale in force as
        `state.scale`, float32. It is a pytree whose leaves are the numbers.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `transformers.optimization.GreedyLR`; "GreedyLR: A Novel Adaptive Learning Rate Scheduler"
        (2025).

    Example:
        >>> from odyssey_jax.schedules import greedy
        >>> rule = greedy(min_scale=0.01, max_scale=10.0, factor=0.5, patience=1)
        >>> state = rule.init()
        >>> for loss in [3.0, 2.0, 1.0, 1.0, 1.0]:
        ...     state = rule.update(state, loss)
        ...     print(state.scale, end=" ")
        1.0 2.0 2.0 2.0 1.0
    """
    return checked(Greedy, locals())
