"""The optimizer of a run, put together of what `fit` is given, and what it logs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.errors import (
    ConcretizationTypeError,
    TracerArrayConversionError,
    TracerIntegerConversionError,
)
from optax import GradientTransformation

from odyssey_jax._opt_state import Parts, SlowParamsState, holds, with_named_args
from odyssey_jax._types import PyTree, ScheduleFn, TrainState
from odyssey_jax.schedules import Schedule
from odyssey_jax.train._user_functions import ByValue, name_of
from odyssey_jax.transforms import (
    LossScale,
    accumulate,
    by_part,
    check_parts,
    counted,
    hyperparams_in_force,
    skipped_by_scale,
    skipped_by_schedule,
    skipped_updates,
    updates_done,
)

# An Optax transformation, or a function that makes one of a rate: what `fit` is given.


@dataclasses.dataclass(frozen=True, eq=False)
class Optimizers(ByValue):
    """A mapping of optimizers, compared by value."""

    names: tuple[str, ...]
    each: tuple[Any, ...]

    @classmethod
    def of(cls, optimizer: Any) -> Any:
        """Return one of a mapping; anything else as it is."""
        if not isinstance(optimizer, Mapping):
            return optimizer
        names = tuple(sorted(optimizer))
        return cls(names, tuple(optimizer[name] for name in names))

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return pairs of name and optimizer."""
        return zip(self.names, self.each, strict=True)


def make_optimizer(
    optimizer: Any,
    learning_rate: Any = None,
    clip_norm: float | None = None,
    accumulate_steps: int = 1,
    loss_scale: LossScale | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Put the optimizer together: learning rate, clipping, accumulation and loss scale.

    Args:
        optimizer: A transformation, or a function that makes one of a schedule
            (`optax.adamw`, or `lambda lr: optax.chain(..., optax.sgd(lr))`); or a mapping of
            these, one for each top-level part of the parameters.
        learning_rate: The schedule for such a function, or None; a mapping of them for a mapping.
        clip_norm: The largest global norm of a gradient; a larger one is scaled down to it,
            after accumulation. None does not clip.
        accumulate_steps: Train steps whose mean gradient, weighted by their examples, makes one
            update.
        loss_scale: From `loss_scale`, for half precision; None scales nothing.

    Returns:
        The whole transformation.
    """
    optimizer = Optimizers.of(optimizer)
    if isinstance(optimizer, Optimizers):
        rates = learning_rate or {}
        made = by_part({name: _made(one, rates.get(name)) for name, one in optimizer.items()})
    else:
        made = _made(optimizer, learning_rate)
    return _wrapped(made, clip_norm, accumulate_steps, loss_scale)


def make_optimizers(
    optimizer: Any, learning_rate: Any, clip_norm: float | None, accumulate_steps: int
) -> Any:
    """Make what a step of one's own is given: a transformation, or a mapping of them.

    Each clips and accumulates by itself, and counts its updates, by which its rate is logged.
    """
    one = lambda made, rate: _wrapped(counted(_made(made, rate)), clip_norm, accumulate_steps)
    if not isinstance(optimizer, Optimizers):
        return one(optimizer, learning_rate)
    rates = learning_rate or {}
    return {name: one(made, rates.get(name)) for name, made in optimizer.items()}


def init_optimizers(optimizer: Any, params: PyTree) -> PyTree:
    """Return the first state of a transformation, or of each of a mapping."""
    if not isinstance(optimizer, Mapping):
        return optimizer.init(params)
    check_parts(optimizer, params)
    return Parts({name: one.init(params[name]) for name, one in optimizer.items()})


def _made(optimizer: Any, learning_rate: ScheduleFn | None) -> GradientTransformation:
    """Return the transformation that the user means, with errors in words."""
    made = _transformation_of(optimizer)
    if not isinstance(made, GradientTransformation):
        made = _transformation_of(_called(optimizer, learning_rate))
    if not isinstance(made, GradientTransformation):
        raise TypeError(
            f"optimizer={optimizer!r} must make an optax.GradientTransformation of a learning "
            f"rate, it made {type(made).__name__}."
        )
    return _guarded(made)


def _transformation_of(optimizer: Any) -> Any:
    """Return the transformation in an optax.MultiSteps or an nnx.Optimizer (its `tx`)."""
    if isinstance(optimizer, optax.MultiSteps):
        return optimizer.gradient_transformation()
    tx = getattr(optimizer, "tx", None)
    return tx if isinstance(tx, GradientTransformation) else optimizer


def _wrapped(
    made: GradientTransformation,
    clip_norm: float | None,
    accumulate_steps: int,
    loss_scale: LossScale | None = None,
) -> optax.GradientTransformationExtraArgs:
    if clip_norm is not None:
        made = optax.chain(optax.clip_by_global_norm(clip_norm), made)
    if accumulate_steps > 1:
        made = accumulate(made, accumulate_steps)
    if loss_scale is not None:
        made = loss_scale.wrap(made)
    return optax.with_extra_args_support(made)


def _guarded(optimizer: GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Return the user's optimizer, whose errors say what a train step gives, and the remedy."""
    optimizer = with_named_args(optimizer)

    def init(params: PyTree) -> PyTree:
        # Of the slow parameters, which it finds missing in its log, it has no need yet.
        state = _called(optimizer.init, params)
        return SlowParamsState(state, params) if _looks_ahead(state) else state

    def update(updates, state, params=None, **extra):
        given = extra
        if _estimates_hessian(state) and "value_fn" in extra:
            given = {"obj_fn": extra["value_fn"]}  # as Optax's Sophia calls it
        if isinstance(state, SlowParamsState):
            updates, state = _looking_ahead(optimizer, updates, state, params, given)
        else:
            updates, state = _called(optimizer.update, updates, state, params, **given)
        _check_updates(updates, params)
        return updates, state

    return optax.GradientTransformationExtraArgs(init, update)


_GIVEN = (
    "A train step calls update(gradients, state, params) with value, grad, value_fn and grad_fn "
    "for those that take them, and optax.chain gives all to each: put a chain into one that takes "
    "some alone, as in sam(optax.chain(...), ...). With accumulate_steps above 1 it gives value "
    "alone, as a microbatch's functions are not the batch's."
)
_OF_NUMBERS = (
    "An optimizer that takes a number for its learning rate and no schedule, such as optax.rprop, "
    "is made anew of the rate in force by "
    "`lambda rate: optax.inject_hyperparams(optax.rprop)(learning_rate=rate)`."
)
_TRACED = (ConcretizationTypeError, TracerArrayConversionError, TracerIntegerConversionError)


# By a line search, or by what takes no other argument: by both it is said so.
_NO_GRAD_FN = re.compile(r"(?i)unexpected keyword arguments? .*'grad_fn'")


def _called(function: Callable[..., Any], *args: Any, **extra: Any) -> Any:
    """Call a function of the optimizer's, without `grad_fn` where that is refused."""
    try:
        return function(*args, **extra)
    except _TRACED as error:
        raise _not_traceable(error) from error
    except (TypeError, AttributeError, KeyError) as error:
        # Nothing else: what another one within a chain may take would be missing in silence.
        if _NO_GRAD_FN.search(str(error)) and extra.pop("grad_fn", None) is not None:
            return _called(function, *args, **extra)
        raise TypeError(
            f"the optimizer can't be used with these parameters and arguments: {error}. {_GIVEN} "
            f"{_OF_NUMBERS}"
        ) from error
    except Exception as error:
        if extra:
            error.add_note(f"while tracing your optimizer. {_GIVEN}")
        raise


def check_rate(schedule: Any) -> None:
    """Raise ValueError unless a learning rate, or each of a mapping, can be traced.

    A schedule of ours is traced whenever it is called.
    """
    if isinstance(schedule, Mapping):
        for one in schedule.values():
            check_rate(one)
    elif schedule is not None and not isinstance(schedule, Schedule):
        try:
            jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        except _TRACED as error:
            raise _not_traceable(error) from error


def _not_traceable(error: Exception) -> ValueError:
    return ValueError(
        "the learning rate, or what else the optimizer is scheduled by, can't be traced: the step "
        "is no Python number in a compiled program. Decide by jnp.where(step < n, a, b) and not "
        "by `if`, compute by jax.numpy and not by numpy or math, or use the schedules of "
        f"odyssey_jax, such as a.then(b, after=n): {str(error).splitlines()[0]}"
    )


def _looks_ahead(opt_state: PyTree) -> bool:
    return holds(opt_state, lambda x: isinstance(x, optax.LookaheadState))


def _looking_ahead(
    optimizer: GradientTransformation,
    updates: PyTree,
    state: SlowParamsState,
    params: PyTree,
    given: Mapping[str, Any],
) -> tuple[PyTree, SlowParamsState]:
    """Call `optax.lookahead`, which wants the slow parameters beside, and moves them too."""
    both = optax.LookaheadParams(fast=params, slow=state.slow)
    try:
        updates, inner = _called(optimizer.update, updates, state.inner_state, both, **given)
        slow = optax.apply_updates(state.slow, updates.slow)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        if isinstance(error.__cause__, _TRACED):
            raise
        raise ValueError(
            f"{str(error).splitlines()[0]} (in optax.lookahead, which is to be the outermost "
            "transformation, or the last in an optax.chain: others around it don't take its pair "
            "of parameters; give them to it, as in "
            "optax.lookahead(ody.freeze(optimizer, ...), 5, 0.5))"
        ) from error
    return updates.fast, SlowParamsState(inner, slow)


def _estimates_hessian(opt_state: PyTree) -> bool:
    return holds(opt_state, lambda x: isinstance(x, optax.contrib.HutchinsonState))


def _check_updates(updates: PyTree, params: PyTree) -> None:
    """Raise ValueError unless updates have the parameters' structure and shapes."""
    leaves = lambda tree: {
        name_of(path): jnp.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    have, want = leaves(updates), leaves(params)
    for name, shape in want.items():
        if name not in have:
            raise ValueError(
                f"the optimizer makes no update of the parameter {name!r}. {_OF_NUMBERS}"
            )
        if have[name] != shape:
            raise ValueError(
                f"the optimizer makes an update of shape {have[name]} for the parameter {name!r} "
                f"of shape {shape}: they must be the same."
            )
    if more := have.keys() - want.keys():
        raise ValueError(f"the optimizer makes updates of {sorted(more)}, which are no parameters.")


def is_transformation(optimizer: Any) -> bool:
    """Return whether it is ready to use, rather than a function of a learning rate."""
    return isinstance(_transformation_of(optimizer), GradientTransformation)


def logged_hyperparams(
    schedule: Any, state: TrainState, step: jax.Array, accumulate_steps: int
) -> dict[str, jax.Array]:
    """Return what was in force in the last of `step` train steps, and what was skipped so far."""
    done = updates_done(state.opt_state)

    def rate_of(schedule: ScheduleFn, part: str = "") -> jax.Array:
        if part in done:
            update = jnp.maximum(done[part] - 1, 0)
        else:
            # What a loss scale skips, the optimizer does not count.
            taken = step - skipped_by_scale(state.opt_state)
            update = jnp.maximum(taken - 1, 0) // accumulate_steps
        skipped = skipped_by_schedule(state.opt_state, part)
        if skipped is not None:
            update = jnp.maximum(update - skipped, 0)
        return jnp.asarray(schedule(update), jnp.float32)

    rate = None
    if isinstance(schedule, Mapping):
        rate = {part: rate_of(one, part) for part, one in schedule.items()}
    elif schedule is not None:
        rate = rate_of(schedule)
    return hyperparams_in_force(state.opt_state, rate) | skipped_updates(state.opt_state)
