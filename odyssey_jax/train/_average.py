"""Averages of the parameters over the train steps: what is validated, and returned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from odyssey_jax._checks import check_count, check_flag
from odyssey_jax._types import PyTree, TrainState, averaged_part
from odyssey_jax.train._user_functions import changes_of_form, name_of
from odyssey_jax.transforms import frozen_names


class Average(NamedTuple):
    """An average so far; `TrainState.average`.

    Floating-point numbers have at least 32 bits: half precision rounds a thousandth of a change
    away.

    Attributes:
        params: The averaged parameters.
        model_state: The averaged model state; integers and PRNG keys in it are the latest.
        updates: Int32 scalar, how many are in it.
    """

    params: PyTree
    model_state: PyTree
    updates: jax.Array


@dataclasses.dataclass(frozen=True)
class Averaging:
    """How an average takes in another update; see `exponential_average` and `equal_average`."""

    decay: float | None
    warmup: bool
    start: int
    every: int

    def init(self, params: PyTree, model_state: PyTree, opt_state: PyTree) -> Average:
        """Start from the first parameters and model state."""
        del opt_state
        model_state = averaged_part(model_state)
        return Average(_wide(params), _wide(model_state), jnp.zeros((), jnp.int32))

    def update(self, average: Average, state: TrainState, update: jax.Array) -> Average:
        """Take in the state after an update.

        Args:
            average: So far.
            state: After the update.
            update: Int32 scalar, the updates done before it.
        """
        done = update + 1 - self.start
        if self.start == 0 and self.every == 1:
            return self._taken(average, state)
        due = (done > 0) & (done % self.every == 0)
        # Until the first is due, the average is the state itself.
        model_state = averaged_part(state.model_state)
        latest = Average(_wide(state.params), _wide(model_state), average.updates)
        begun = average.updates > 0
        wait = lambda: jax.tree.map(lambda a, b: jnp.where(begun, a, b), average, latest)
        return lax.cond(due, lambda: self._taken(average, state), wait)

    def _taken(self, average: Average, state: TrainState) -> Average:
        share = self._share(average.updates.astype(jnp.float32))

        def towards(old: jax.Array, new: jax.Array) -> jax.Array:
            if not jnp.issubdtype(old.dtype, jnp.inexact):
                return new  # of integers and PRNG keys there is no mean
            return old + share.astype(old.dtype) * (new - old)

        frozen = frozen_names(state.opt_state)
        # A frozen one is what it was, also where it is infinite.
        param = lambda path, old, new: old if name_of(path) in frozen else towards(old, new)
        params = jax.tree_util.tree_map_with_path(param, average.params, state.params)
        latest = averaged_part(state.model_state)
        model_state = jax.tree.map(towards, average.model_state, latest)
        return Average(params, model_state, average.updates + 1)

    def _share(self, count: jax.Array) -> jax.Array:
        """Return the share of the new one, after `count` others."""
        if self.decay is None:
            return 1 / (count + 1)
        decay = jnp.float32(self.decay)
        return 1 - (jnp.minimum(decay, (1 + count) / (10 + count)) if self.warmup else decay)


@dataclasses.dataclass(frozen=True)
class EvalParams:
    """The parameters at which a run is evaluated, by `StepOptions.eval_params`: as an average is.

    They are computed at every update, so that whatever reads a carry finds them in it.
    """

    function: Callable[[PyTree, PyTree], PyTree]

    def init(self, params: PyTree, model_state: PyTree, opt_state: PyTree) -> Average:
        """Evaluate the first state."""
        found = self._of(opt_state, params)
        return Average(found, averaged_part(model_state), jnp.zeros((), jnp.int32))

    def update(self, average: Average, state: TrainState, update: jax.Array) -> Average:
        """Evaluate the state after an update."""
        del update
        found = self._of(state.opt_state, state.params)
        return Average(found, averaged_part(state.model_state), average.updates + 1)

    def _of(self, opt_state: PyTree, params: PyTree) -> PyTree:
        found = self.function(opt_state, params)
        cast = lambda x, like: jnp.asarray(x, jnp.result_type(like))
        alike = jax.tree.structure(found) == jax.tree.structure(params)
        if alike:
            found = jax.tree.map(cast, found, params)
        if what := changes_of_form(found, params):
            raise ValueError(
                "eval_params must return parameters of the form of those that it is given, and "
                f"what it returns {what}. A node of the optimizer's state is found by its field's "
                "name, as in optax.tree.get(opt_state, 'slow')."
            )
        return found


def _wide(tree: PyTree) -> PyTree:
    """Return a tree whose floating-point numbers have at least 32 bits."""

    def widen(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    return jax.tree.map(widen, tree)


def exponential_average(decay: float = 0.999, *, warmup: bool = True) -> Averaging:
    r"""Average the parameters exponentially (EMA), for `StepOptions.average`.

    $$\bar\theta_t = \bar\theta_{t-1} + (1 - d_t) (\theta_t - \bar\theta_{t-1}), \qquad
      d_t = \min\left(d, \frac{1 + t}{10 + t}\right)$$

    after update $t$, counted from 0; without warm-up, $d_t = d$. $\bar\theta$ begins as the
    first parameters. Validation, metrics, the best epoch and the result are the average's;
    training goes on with the parameters themselves. Batch statistics and other real numbers of
    the model's state are averaged alike. It is one more copy of both, in float32 at least, and
    saved with the run.

    Args:
        decay: The share $d$ of the past, in [0, 1).
        warmup: Whether it begins small, so that the first parameters are soon forgotten.

    Returns:
        What `fit(average=...)` and `StepOptions` take.

    Raises:
        ValueError: If the decay is out of its range, or `warmup` no bool.

    Source:
        Polyak and Juditsky (1992); the warm-up is that of
        `tf.train.ExponentialMovingAverage(num_updates=...)` and timm's `ModelEmaV3`.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: -w * batch.mean())
        >>> data = ody.ArrayDataset(jnp.ones(4), batch_size=4)
        >>> result = ody.fit(task, optax.sgd(1.0), data, epochs=3, writers=[],
        ...                  average=ody.exponential_average(0.5, warmup=False))
        >>> float(result.model), float(result.carry.state.params)  # of 0, 1, 2, 3
        (2.125, 3.0)
    """
    real = isinstance(decay, Real) and not isinstance(decay, bool)
    if not (real and 0 <= decay < 1):
        raise ValueError(f"decay must be in the range [0, 1), got {decay!r}.")
    check_flag("warmup", warmup)
    return Averaging(float(decay), warmup, start=0, every=1)


def equal_average(start: int, every: int = 1) -> Averaging:
    r"""Average the parameters of the last part of a run equally (SWA), for `StepOptions.average`.

    $$\bar\theta = \frac{1}{n} \sum_{i=1}^n \theta_{s + i k}$$

    over the parameters after $s + k$, $s + 2k$, ... updates. Until the first of these, it is the
    parameters themselves. As with `exponential_average`, it is what is validated and returned,
    and the model's batch statistics are averaged alike.

    Args:
        start: The updates $s$ before it begins, at least 0.
        every: The updates $k$ from one to the next, at least 1; an epoch's is usual, where the
            rate is cyclic.

    Returns:
        What `fit(average=...)` and `StepOptions` take.

    Raises:
        ValueError: If an argument is out of its range.

    Source:
        Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization"
        (2018); `torch.optim.swa_utils.AveragedModel`.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: -w * batch.mean())
        >>> data = ody.ArrayDataset(jnp.ones(4), batch_size=4)
        >>> result = ody.fit(task, optax.sgd(1.0), data, epochs=7, writers=[],
        ...                  average=ody.equal_average(start=2, every=2))
        >>> float(result.model)  # of 4 and 6
        5.0
    """
    start, every = check_count("start", start), check_count("every", every, 1)
    return Averaging(None, False, start, every)
