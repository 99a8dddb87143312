"""Raise the rate while a metric improves, and cut it when it does not."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._pytree import node
from odyssey_jax.schedules._fields import (
    is_known,
    require_count,
    require_not_negative,
    require_share,
)
from odyssey_jax.schedules._metric_rules import (
    Mode,
    NanPolicy,
    RelativeTo,
    check_comparison,
    check_first,
    choice,
    first_scale,
    improves,
    lowered,
    observed,
    one_more,
    raised,
    scales,
    sequence,
    whole,
    worst,
)
from odyssey_jax.schedules._numbers import Wide, canonical, choose


class GreedyState(NamedTuple):
    """The state of `greedy`.

    Args:
        scale: float32, the scale in force; of the shape of the rule's scales.
        best: the best value so far, as float32 `high + low`; infinity before there is one.
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


@node
class Greedy:
    """The rule that `greedy` makes: numbers are leaves, choices are static."""

    min_scale: Any
    max_scale: Any
    factor: Any
    patience: Any
    rtol: Any
    atol: Any
    cooldown: Any
    warmup: Any
    init_scale: Any
    eps: Any
    reset_start: Any
    window: int = choice(1)
    mode: Mode = choice("min")
    relative_to: RelativeTo = choice("magnitude")
    nan: NanPolicy = choice("bad")

    def init(self) -> GreedyState:
        """Makes the state of a rule that has seen no value.

        Returns:
            The state, whose structure, shapes and dtypes are final.
        """
        rule = jax.tree.map(canonical, self)
        none = jnp.zeros((), jnp.int32)
        return GreedyState(
            scale=first_scale(rule.init_scale, rule.min_scale, rule.max_scale, rule.eps),
            best=worst(self.mode),
            good=none,
            wait=none,
            cooldown=none,
            warmup=none,
            at_min=none,
            window=jnp.zeros(self.window, jnp.float32),
            filled=none,
            slot=none,
        )

    def update(self, state: GreedyState, value: Any) -> GreedyState:
        """Takes the state past a value of the metric.

        Args:
            state: from `init` or an earlier `update`.
            value: the metric; a real scalar, NaN and the infinities included.

        Returns:
            The new state; `scale` is in force from here on.

        Raises:
            ValueError: If the value is no scalar.
        """
        return _update(jax.tree.map(canonical, self), state, observed(value))

    def _advance(self, state: GreedyState, value: Wide) -> GreedyState:
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
        comparison = {"mode": self.mode, "rtol": self.rtol, "atol": self.atol}
        better = improves(value, state.best, relative_to=self.relative_to, **comparison)
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
    """The mean of the window with the value in it; what is not finite is judged as it is."""
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


@jax.jit
def _update(rule: Greedy, state: GreedyState, value: Wide) -> GreedyState:
    new = rule._advance(state, value)
    return choose(jnp.isnan(value.high), state, new) if rule.nan == "ignore" else new


def greedy(
    min_scale: Any,
    max_scale: Any,
    factor: Any = 0.95,
    patience: Any = 10,
    rtol: Any = 0.0,
    atol: Any = 1e-6,
    cooldown: Any = 0,
    warmup: Any = 0,
    *,
    mode: Mode = "min",
    relative_to: RelativeTo = "magnitude",
    init_scale: Any = 1.0,
    eps: Any = 0.0,
    window: int = 1,
    reset_start: Any = None,
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
        mode: Whether "min" or "max" is better.
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
    check_comparison(mode, rtol, atol, relative_to, nan)
    require_not_negative("min_scale", min_scale)
    require_not_negative("max_scale", max_scale)
    _require_ordered(min_scale, max_scale)
    require_share("factor", factor, open_low=True)
    require_not_negative("init_scale", init_scale)
    require_not_negative("eps", eps)
    check_first(init_scale, min_scale, max_scale)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ValueError(f"window must be an integer of at least 1; got window = {window!r}.")
    if reset_start is not None:
        reset_start = require_count("reset_start", reset_start, least=1)
    return Greedy(
        min_scale=sequence(min_scale),
        max_scale=sequence(max_scale),
        factor=factor,
        patience=require_count("patience", patience),
        rtol=rtol,
        atol=atol,
        cooldown=require_count("cooldown", cooldown),
        warmup=require_count("warmup", warmup),
        init_scale=sequence(init_scale),
        eps=sequence(eps),
        reset_start=reset_start,
        window=window,
        mode=mode,
        relative_to=relative_to,
        nan=nan,
    )


def _require_ordered(least: Any, most: Any) -> None:
    known = is_known(least) and is_known(most)
    if known and np.any(np.asarray(least) > np.asarray(most)):
        raise ValueError(
            f"min_scale must be at most max_scale; got min_scale = {least!r}, max_scale = {most!r}."
        )
