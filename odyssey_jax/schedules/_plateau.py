"""Cut the rate when a metric has stopped improving."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ._check import (
    is_known,
    require_choice,
    require_count,
    require_not_negative,
    require_share,
)
from ._metric import (
    Mode,
    NanPolicy,
    RelativeTo,
    check_comparison,
    check_first,
    choice,
    choose,
    first_scale,
    improves,
    lowered,
    observed,
    one_more,
    sequence,
    smoothed,
    whole,
    worst,
)
from ._node import node
from ._numbers import Wide, canonical

PatienceRule = Literal["torch", "optax", "keras", "odyssey"]


class _Counting(NamedTuple):
    """A patience rule: `patience + grace` bad values cut, and `cooldown + rest` are then free."""

    grace: int
    rest: int


# The peers differ by one here and there: this is all of it.
_COUNTING: dict[str, _Counting] = {
    "torch": _Counting(grace=1, rest=0),
    "optax": _Counting(grace=0, rest=0),
    "keras": _Counting(grace=0, rest=-1),
    "odyssey": _Counting(grace=0, rest=0),
}


class PlateauState(NamedTuple):
    """The state of `reduce_on_plateau`.

    Args:
        scale: float32, the scale in force; of the shape of the rule's scales.
        best: the best value so far, as float32 `high + low`; infinity before there is one.
        wait: int32 scalar, the bad values in a row.
        cooldown: int32 scalar, the values that are still free.
        average: float32 scalar, the smoothed metric; infinity before there is one.
        total: float32 scalar, the sum of the values that wait for a judgement.
        pending: int32 scalar, how many they are.
    """

    scale: jax.Array
    best: Wide
    wait: jax.Array
    cooldown: jax.Array
    average: jax.Array
    total: jax.Array
    pending: jax.Array


@node
@dataclasses.dataclass(frozen=True)
class ReduceOnPlateau:
    """The rule that `reduce_on_plateau` makes: numbers are leaves, choices are static."""

    factor: Any
    patience: Any
    rtol: Any
    atol: Any
    cooldown: Any
    init_scale: Any
    min_scale: Any
    eps: Any
    smoothing: Any
    accumulation_size: Any
    mode: Mode = choice("min")
    relative_to: RelativeTo = choice("magnitude")
    patience_rule: PatienceRule = choice("torch")
    nan: NanPolicy = choice("bad")

    def init(self) -> PlateauState:
        """Makes the state of a rule that has seen no value.

        Returns:
            The state, whose structure, shapes and dtypes are final.
        """
        rule = jax.tree.map(canonical, self)
        return PlateauState(
            scale=first_scale(rule.init_scale, rule.min_scale, rule.eps),
            best=worst(self.mode),
            wait=jnp.zeros((), jnp.int32),
            cooldown=jnp.zeros((), jnp.int32),
            average=jnp.full((), jnp.inf, jnp.float32),
            total=jnp.zeros((), jnp.float32),
            pending=jnp.zeros((), jnp.int32),
        )

    def update(self, state: PlateauState, value: Any) -> PlateauState:
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

    def _advance(self, state: PlateauState, value: Wide) -> PlateauState:
        average, value = smoothed(state.average, value, self.smoothing)
        # The mean of one value is that value, with all its digits.
        total, pending = state.total + value.high, one_more(state.pending)
        mean = Wide(total / pending.astype(jnp.float32), jnp.where(pending == 1, value.low, 0.0))
        waiting = state._replace(average=average, total=total, pending=pending)
        judged = self._judge(waiting, mean)
        return choose(pending >= whole(self.accumulation_size), judged, waiting)

    def _judge(self, state: PlateauState, value: Wide) -> PlateauState:
        comparison = {"mode": self.mode, "rtol": self.rtol, "atol": self.atol}
        better = improves(value, state.best, relative_to=self.relative_to, **comparison)
        wait = jnp.where(better | (state.cooldown > 0), 0, one_more(state.wait))
        counting = _COUNTING[self.patience_rule]
        cut = wait >= jnp.maximum(whole(self.patience) + counting.grace, 1)
        lower = lowered(state.scale, self.factor, self.min_scale, self.eps)
        rest = jnp.where(cut, whole(self.cooldown) + counting.rest, state.cooldown - 1)
        return PlateauState(
            scale=jnp.where(cut, lower, state.scale),
            best=choose(better, value, state.best),
            wait=jnp.where(cut, 0, wait),
            cooldown=jnp.maximum(rest, 0),
            average=state.average,
            total=jnp.zeros_like(state.total),
            pending=jnp.zeros_like(state.pending),
        )


@jax.jit
def _update(rule: ReduceOnPlateau, state: PlateauState, value: Wide) -> PlateauState:
    new = rule._advance(state, value)
    return choose(jnp.isnan(value.high), state, new) if rule.nan == "ignore" else new


def reduce_on_plateau(
    factor: Any = 0.1,
    patience: Any = 10,
    rtol: Any = 1e-4,
    atol: Any = 0.0,
    cooldown: Any = 0,
    *,
    mode: Mode = "min",
    relative_to: RelativeTo = "magnitude",
    patience_rule: PatienceRule = "torch",
    init_scale: Any = 1.0,
    min_scale: Any = 0.0,
    eps: Any = 0.0,
    smoothing: Any = 0.0,
    accumulation_size: Any = 1,
    nan: NanPolicy = "bad",
) -> ReduceOnPlateau:
    r"""Cut a scale by `factor` when a metric has not improved for a while.

    With the best value $b$ so far, a value $m$ is good, and the new best, if (mode "min")

    $$m < b - (r \, |b| + a)$$

    and else it is bad; in mode "max", if $m > b + (r |b| + a)$. The first finite value is good,
    and NaN never is. After so many bad values in a row the scale $s$ becomes
    $\max(s f, s_\mathrm{min})$, and the count begins again. The scale multiplies any schedule; see
    `scale_by_metric` for an Optax chain and `adapt_rate` for the loop.

    How many bad values cut, with a patience of $p$ and a cooldown of $c$, and the period between
    two cuts on a metric that never improves:

    | `patience_rule` | cut on bad value | period |
    |---|---|---|
    | "torch" (also timm, transformers) | $p + 1$ | $p + 1 + c$ |
    | "optax" | $p$ | $p + c$ |
    | "keras" | $p$ | $p + \max(c - 1, 0)$ |
    | "odyssey" | $p$ | $p + c$ |

    A patience of 0 is one of 1 where that would cut before the first bad value. Where Optax
    itself would then cut on every improvement it is refused.

    Args:
        factor: What a cut multiplies by, $f$; in [0, 1).
        patience: The bad values that are put up with, $p$; a whole number, at least 0.
        rtol: The margin as a share of the best value, $r$; at least 0.
        atol: The margin itself, $a$; at least 0.
        cooldown: Values after a cut that are never bad, $c$; a whole number, at least 0.
        mode: Whether "min" or "max" is better.
        relative_to: Of what `rtol` is a share. The "magnitude" of the best value; or the "value"
            with its sign, as in PyTorch and Optax: there a margin is negative where the metric is.
        patience_rule: How bad values are counted; see above.
        init_scale: The first scale; at least 0. For a rate by itself, without a schedule, give it
            here. A sequence is a scale for each of several groups that share the decisions.
        min_scale: The least scale, $s_\mathrm{min}$; in [0, init_scale], or a sequence of such.
        eps: A cut that would change the scale by no more than this is left out; at least 0, or a
            sequence of such.
        smoothing: The share of the past in an exponential moving average of the metric, which is
            what is then judged; in [0, 1). Values that are not finite are judged as they are.
        accumulation_size: Values whose mean is one value to judge; a whole number, at least 1.
        nan: Whether NaN is a "bad" value, or one to "ignore".

    Returns:
        A rule: `init() -> state` and `update(state, value) -> state`, with the scale in force as
        `state.scale`, float32. It is a pytree whose leaves are the numbers.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `torch.optim.lr_scheduler.ReduceLROnPlateau`, `optax.contrib.reduce_on_plateau`,
        `keras.callbacks.ReduceLROnPlateau`.

    Example:
        >>> from odyssey_jax.schedules import reduce_on_plateau
        >>> rule = reduce_on_plateau(factor=0.5, patience=1)
        >>> state = rule.init()
        >>> for loss in [3.0, 2.0, 2.0, 2.0, 1.0]:
        ...     state = rule.update(state, loss)
        ...     print(state.scale, end=" ")
        1.0 1.0 1.0 0.5 0.5
    """
    check_comparison(mode, rtol, atol, relative_to, nan)
    require_choice("patience_rule", patience_rule, tuple(_COUNTING))
    patience = require_count("patience", patience)
    if patience_rule == "optax" and is_known(patience) and patience == 0:
        raise ValueError(
            "patience must be at least 1 under patience_rule = 'optax', where 0 cuts on every "
            f"improvement and never on a plateau; got patience = {patience!r}."
        )
    cooldown = require_count("cooldown", cooldown)
    accumulation_size = require_count("accumulation_size", accumulation_size, least=1)
    require_share("factor", factor)
    require_share("smoothing", smoothing)
    require_not_negative("init_scale", init_scale)
    require_not_negative("min_scale", min_scale)
    require_not_negative("eps", eps)
    check_first(init_scale, min_scale)
    return ReduceOnPlateau(
        factor=factor,
        patience=patience,
        rtol=rtol,
        atol=atol,
        cooldown=cooldown,
        init_scale=sequence(init_scale),
        min_scale=sequence(min_scale),
        eps=sequence(eps),
        smoothing=smoothing,
        accumulation_size=accumulation_size,
        mode=mode,
        relative_to=relative_to,
        patience_rule=patience_rule,
        nan=nan,
    )
