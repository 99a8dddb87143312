"""What the rules that follow a metric share: when a value is better, and a scale in its bounds.

A rule is a pair of pure functions, `init() -> state` and `update(state, value) -> state`. Its
hyper-parameters are its fields, and only what it has seen is in the state: so another patience
applies to an old state.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from odyssey_jax._direction import Mode as Mode
from odyssey_jax._pytree import node
from odyssey_jax.schedules._fields import (
    NOT_NEGATIVE,
    SHARE,
    checked,
    choice,
    count,
    field,
    is_known,
    require_order,
    require_real,
)
from odyssey_jax.schedules._numbers import Wide, canonical, choose, is_integer, pair, real
from odyssey_jax.schedules._steps import LAST_STEP

RelativeTo = Literal["magnitude", "value"]
NanPolicy = Literal["bad", "ignore"]


@runtime_checkable
class MetricRule(Protocol):
    """A scale that follows a metric: `reduce_on_plateau`, `greedy`, or one's own.

    Its state is a pytree of arrays with a field `scale`, whose structure, shapes and dtypes
    `init` gives once and for all.
    """

    def init(self) -> Any:
        """Make the state of a rule that has seen no value."""
        ...

    def update(self, state: Any, value: Any) -> Any:
        """Take the state past a value of the metric."""
        ...


def require_scales(name: str, value: Any) -> Any:
    """Return a scale, or a sequence of them (one for each group of parameters) as a tuple."""
    NOT_NEGATIVE(name, value)
    return tuple(value) if isinstance(value, (list, tuple)) else value


def require_first_between(**scales: Any) -> None:
    """Raise ValueError for a first scale outside its bounds, from which a rule would not move."""
    if any(isinstance(x, tuple) or np.ndim(x) > 0 for x in scales.values()):
        return
    for (low_name, low), (high_name, high) in itertools.pairwise(scales.items()):
        require_order(low_name, low, high_name, high)


def observed(value: Any) -> Wide:
    """Return a metric's value with all its digits: a Python float has more than float32's."""
    if np.ndim(value) != 0:
        raise ValueError(
            f"value must be a scalar; got shape {np.shape(value)}. A rule for each of several "
            "metrics is jax.vmap(rule.update)(states, values)."
        )
    require_real("value", value)
    with np.errstate(over="ignore"):  # beyond float32 is infinity, which is a value like any other
        high, low = pair(canonical(value))
    return Wide(high, jnp.where(jnp.isfinite(high), low, jnp.zeros_like(high)))


def worst(mode: str) -> Wide:
    """Return the best value before there is one: every finite one beats it.

    Not infinity, which would be in a carry for good, and `jax.debug_infs` would stop at it.
    """
    bound = _LARGEST if mode == "min" else -_LARGEST
    return Wide(jnp.asarray(bound, jnp.float32), jnp.zeros((), jnp.float32))


_LARGEST = np.finfo(np.float32).max


def no_average(dtype: Any = jnp.float32) -> jax.Array:
    """Return the moving average before there is one, which none can come to."""
    return jnp.full((), jnp.finfo(dtype).max, dtype)


def improves(
    value: Wide, best: Wide, *, mode: str, rtol: Any, atol: Any, relative_to: str
) -> jax.Array:
    """Return whether a value is better than the best by more than the margin; NaN never is.

    What is compared is the gain, which has all its digits, and not a bound, which would have
    lost those of the margin.
    """
    worse, better = (best, value) if mode == "min" else (value, best)
    gain = (worse.high - better.high) + (worse.low - better.low)
    size = best.high if relative_to == "value" else jnp.abs(best.high)
    margin = real(rtol) * jnp.where(jnp.abs(size) >= _LARGEST, 0.0, size) + real(atol)
    # From 1.02 to 1.0098 is a gain of 1% and no more, whichever way the two are rounded.
    return gain > margin + 4 * jnp.finfo(jnp.float32).eps * jnp.abs(margin)


def smoothed(average: jax.Array, value: Wide, smoothing: Any) -> tuple[jax.Array, Wide]:
    """Return the new moving average, and what is to be judged.

    `no_average` is an average of nothing. A value that is not finite enters none, and is judged as
    it is.
    """
    keep = real(smoothing)
    fresh = (average == no_average(average.dtype)) | (keep == 0)
    old = jnp.where(fresh, 0.0, average)
    finite = jnp.isfinite(value.high)
    mixed = jnp.where(fresh, value.high, old + (1 - keep) * (value.high - old))
    as_it_is = fresh | ~finite
    judged = Wide(jnp.where(as_it_is, value.high, mixed), jnp.where(as_it_is, value.low, 0.0))
    return jnp.where(finite, mixed, average), judged


def lowered(scale: jax.Array, factor: Any, least: Any, eps: Any) -> jax.Array:
    """Return `scale * factor`, at least the least; as it is if it moves by at most `eps`."""
    high, low = pair(factor)
    new = jnp.maximum(scale * high + scale * low, scales(least))
    return jnp.where(scale - new > scales(eps), new, scale)


def raised(scale: jax.Array, factor: Any, most: Any, eps: Any) -> jax.Array:
    """Return `scale / factor`, at most the most; as it is if it moves by at most `eps`."""
    high, low = pair(factor)
    near = scale / high
    new = jnp.minimum(near - near * (low / high), scales(most))
    return jnp.where(new - scale > scales(eps), new, scale)


def scales(x: Any) -> jax.Array:
    """Return a scale, or a sequence of them (one for each group), as a float32 array."""
    several = isinstance(x, tuple) and not isinstance(x, Wide)
    return jnp.stack([real(each) for each in x]) if several else real(x)


def first_scale(*fields: Any) -> jax.Array:
    """Return the first of some scales, in the shape that all of them have together."""
    arrays = [scales(x) for x in fields]
    return jnp.broadcast_to(arrays[0], jnp.broadcast_shapes(*(a.shape for a in arrays)))


def whole(x: Any) -> jax.Array:
    """Return a hyper-parameter that counts, as int32."""
    return jnp.asarray(x if is_integer(x) else jnp.floor(real(x)), jnp.int32)


def one_more(count: jax.Array) -> jax.Array:
    """Return `count + 1`, which never wraps."""
    return jnp.minimum(count, LAST_STEP - 1) + 1


class Rule:
    """What the rules share: how a value is taken, compiled once for all of a kind."""

    rtol: Any
    atol: Any
    mode: Mode | None
    relative_to: RelativeTo
    nan: NanPolicy

    def update(self, state: Any, value: Any) -> Any:
        """Take the state past a value of the metric.

        Args:
            state: The state that `init` or an earlier `update` returned.
            value: The metric; a real scalar, NaN and the infinities included.

        Returns:
            The new state; `scale` is in force from here on.

        Raises:
            ValueError: If the value is no scalar.
        """
        return _update(jax.tree.map(canonical, self), state, observed(value))

    @property
    def known_mode(self) -> Mode:
        """The mode; "min" where neither it nor the metric's name was given."""
        return self.mode or "min"

    def better(self, value: Wide, best: Wide) -> jax.Array:
        """Return whether a value is good, and so the new best."""
        comparison = {"mode": self.known_mode, "rtol": self.rtol, "atol": self.atol}
        return improves(value, best, relative_to=self.relative_to, **comparison)

    def advance(self, state: Any, value: Wide) -> Any:
        """Return the state past a value that is not ignored."""
        raise NotImplementedError


@jax.jit
def _update(rule: Rule, state: Any, value: Wide) -> Any:
    new = rule.advance(state, value)
    return choose(jnp.isnan(value.high), state, new) if rule.nan == "ignore" else new


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

    Attributes:
        scale: float32, the scale in force; of the shape of the rule's scales.
        best: The best value so far, as float32 `high + low`; before there is one, the largest
            number.
        wait: int32 scalar, the bad values in a row.
        cooldown: int32 scalar, the values that are still free.
        average: float32 scalar, the smoothed metric; the largest number before there is one.
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
class ReduceOnPlateau(Rule):
    """The rule that `reduce_on_plateau` makes: numbers are leaves, choices are static."""

    factor: Any = field(SHARE)
    patience: Any = field(count())
    rtol: Any = field(NOT_NEGATIVE)
    atol: Any = field(NOT_NEGATIVE)
    cooldown: Any = field(count())
    init_scale: Any = field(require_scales)
    min_scale: Any = field(require_scales)
    eps: Any = field(require_scales)
    smoothing: Any = field(SHARE)
    accumulation_size: Any = field(count(1))
    mode: Mode | None = choice(Mode, optional=True)
    relative_to: RelativeTo = choice(RelativeTo)
    patience_rule: PatienceRule = choice(PatienceRule)
    nan: NanPolicy = choice(NanPolicy)

    def init(self) -> PlateauState:
        """Make the state of a rule that has seen no value.

        Returns:
            The state, whose structure, shapes and dtypes are final.
        """
        rule = jax.tree.map(canonical, self)
        return PlateauState(
            scale=first_scale(rule.init_scale, rule.min_scale, rule.eps),
            best=worst(self.known_mode),
            wait=jnp.zeros((), jnp.int32),
            cooldown=jnp.zeros((), jnp.int32),
            average=no_average(),
            total=jnp.zeros((), jnp.float32),
            pending=jnp.zeros((), jnp.int32),
        )

    def check(self) -> None:
        """Raise ValueError if the patience or the first scale can't work."""
        if self.patience_rule == "optax" and is_known(self.patience) and self.patience == 0:
            raise ValueError(
                "patience must be at least 1 under patience_rule = 'optax', where 0 cuts on every "
                f"improvement and never on a plateau; got patience = {self.patience!r}."
            )
        require_first_between(min_scale=self.min_scale, init_scale=self.init_scale)

    def advance(self, state: PlateauState, value: Wide) -> PlateauState:
        """Return the state past a value, judged when enough of them are there."""
        average, value = smoothed(state.average, value, self.smoothing)
        # The mean of one value is that value, with all its digits.
        total, pending = state.total + value.high, one_more(state.pending)
        mean = Wide(total / pending.astype(jnp.float32), jnp.where(pending == 1, value.low, 0.0))
        waiting = state._replace(average=average, total=total, pending=pending)
        judged = self._judge(waiting, mean)
        return choose(pending >= whole(self.accumulation_size), judged, waiting)

    def _judge(self, state: PlateauState, value: Wide) -> PlateauState:
        better = self.better(value, state.best)
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


def reduce_on_plateau(
    factor: ArrayLike | Sequence[ArrayLike] = 0.1,
    patience: ArrayLike = 10,
    rtol: ArrayLike = 1e-4,
    atol: ArrayLike = 0.0,
    cooldown: ArrayLike = 0,
    *,
    mode: Mode | None = None,
    relative_to: RelativeTo = "magnitude",
    patience_rule: PatienceRule = "torch",
    init_scale: ArrayLike | Sequence[ArrayLike] = 1.0,
    min_scale: ArrayLike | Sequence[ArrayLike] = 0.0,
    eps: ArrayLike = 0.0,
    smoothing: ArrayLike = 0.0,
    accumulation_size: ArrayLike = 1,
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
        mode: Whether "min" or "max" is better. None is "min", and in `adapt_rate` as the metric has
            it, or its name.
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
    return checked(ReduceOnPlateau, locals())
