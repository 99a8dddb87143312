"""One update: the gradient, the optimizer, the new state."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
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

from odyssey_jax._types import (
    Batch,
    Outputs,
    Parts,
    PyTree,
    ScheduleFn,
    Told,
    TrainState,
    real_dtype,
    told,
)
from odyssey_jax.train._convolutions import for_loops, slow_in_loops
from odyssey_jax.train._user_functions import (
    ByValue,
    changes_of_form,
    check_form_of_state,
    name_of,
    with_loss,
)
from odyssey_jax.transforms import (
    LossScale,
    accumulate,
    accumulates,
    by_part,
    check_parts,
    counted,
    frozen_names,
    hyperparams_in_force,
    scale_of_loss,
    skipped_by_scale,
    skipped_by_schedule,
    skipped_updates,
    unscaled,
    updates_done,
)

# An Optax transformation, or a function that makes one of a rate: what `fit` is given.
OptimizerLike = GradientTransformation | Callable[[Any], GradientTransformation] | Mapping[str, Any]


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
    extra_args = isinstance(optimizer, optax.GradientTransformationExtraArgs)
    named = inspect.signature(optimizer.update).parameters if extra_args else {}
    takes_all = any(x.kind is inspect.Parameter.VAR_KEYWORD for x in named.values())

    def init(params: PyTree) -> PyTree:
        state = _called(optimizer.init, params)
        _check_kind(state)
        return state

    def update(updates, state, params=None, **extra):
        # A line search refuses what its value_fn does not take, such as grad_fn.
        all_of_them = {name: x for name, x in extra.items() if name != "grad_fn"}
        named_ones = {name: x for name, x in extra.items() if name in named}
        given = {**all_of_them, **named_ones} if takes_all else named_ones
        if takes_all and _estimates_hessian(state) and "value_fn" in extra:
            given = {"obj_fn": extra["value_fn"]}  # as Optax's Sophia calls it
        updates, state = _called(optimizer.update, updates, state, params, **given)
        _check_updates(updates, params)
        return updates, state

    return optax.GradientTransformationExtraArgs(init, update)


_GIVEN = (
    "A train step calls update(gradients, state, params) with value, grad, value_fn and grad_fn "
    "for those that take them; with accumulate_steps above 1 with value alone, as a microbatch's "
    "functions are not the batch's."
)
_OF_NUMBERS = (
    "An optimizer that takes a number for its learning rate and no schedule, such as optax.rprop, "
    "is made anew of the rate in force by "
    "`lambda rate: optax.inject_hyperparams(optax.rprop)(learning_rate=rate)`."
)
_TRACED = (ConcretizationTypeError, TracerArrayConversionError, TracerIntegerConversionError)


def _called(function: Callable[..., Any], *args: Any, **extra: Any) -> Any:
    try:
        return function(*args, **extra)
    except _TRACED as error:
        raise _not_traceable(error) from error
    except (TypeError, AttributeError, KeyError) as error:
        raise TypeError(
            f"the optimizer can't be used with these parameters and arguments: {error}. {_GIVEN} "
            f"{_OF_NUMBERS}"
        ) from error
    except Exception as error:
        if extra:
            error.add_note(f"while tracing your optimizer. {_GIVEN}")
        raise


def check_rate(schedule: Any) -> None:
    """Raise ValueError unless a learning rate, or each of a mapping, can be traced."""
    if isinstance(schedule, Mapping):
        for one in schedule.values():
            check_rate(one)
    elif schedule is not None:
        try:
            jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        except _TRACED as error:
            raise _not_traceable(error) from error


def _not_traceable(error: Exception) -> ValueError:
    return ValueError(
        "the learning rate, or what else the optimizer is scheduled by, can't be traced: the step "
        "is no Python number in a compiled program. Decide by jnp.where(step < n, a, b) and not "
        "by `if`, compute by jax.numpy and not by numpy or math, or use the schedules of "
        f"odyssey_jax, such as a.then(b, at=n): {str(error).splitlines()[0]}"
    )


def _check_kind(opt_state: PyTree) -> None:
    """Raise ValueError for optimizers whose parameters are not always those to evaluate."""

    def refuse(node: Any) -> bool:
        if isinstance(node, optax.LookaheadState):
            raise ValueError(
                "optax.lookahead keeps two sets of parameters, and the model has one: use its "
                "inner optimizer, with average=ody.exponential_average(...) for the slow one."
            )
        if isinstance(node, optax.contrib.SAMState) and node.cache is not None:
            raise ValueError(
                "optax.contrib.sam takes turns between the model's parameters and perturbed ones, "
                "which would be validated and saved: pass it opaque_mode=True."
            )
        return False

    jax.tree.leaves(opt_state, is_leaf=refuse)


def _estimates_hessian(opt_state: PyTree) -> bool:
    is_one = lambda x: isinstance(x, optax.contrib.HutchinsonState)
    return any(map(is_one, jax.tree.leaves(opt_state, is_leaf=is_one)))


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


@dataclasses.dataclass(frozen=True)
class Step(Told):
    """A train step: where it is, and the loss that it lowers.

    Attributes:
        loss: As in `Task.loss`.
    """

    loss: Callable[..., Any] = dataclasses.field(kw_only=True)

    def loss_of(self, params: PyTree, model_state: PyTree, batch: Batch) -> tuple[Any, Any]:
        """Return `(loss, (model_state, outputs))`, the loss told what it asks for."""
        more = told(self.loss, self, ("step", "progress"))
        return self.loss(params, model_state, batch, self.key, **more)

    def value_and_grad(
        self,
        state: TrainState,
        batch: Batch,
        loss_fn: Callable[..., Any] | None = None,
        *,
        part: str | None = None,
    ) -> tuple[Any, PyTree]:
        """Return the loss and its gradient in the parameters that are trained.

        Args:
            state: The train state, at whose parameters it is taken.
            batch: What the loss takes.
            loss_fn: Another loss than the task's, of the same form; None is the task's.
            part: The top-level part of the parameters to differentiate by; None is all of them.

        Returns:
            `(loss, (model_state, outputs))`, and the gradient, a tree like the parameters or that
            part of them; 0 for what `freeze` freezes.

        Raises:
            ValueError: If there is no such part.
        """
        loss = self.loss if loss_fn is None else with_loss(self.loss, loss_fn)
        step = dataclasses.replace(self, loss=loss)
        loss_of = lambda params: step.loss_of(params, state.model_state, batch)
        trained = _Trained(state, part)
        found, grads = _gradient_of(loss_of, state.params, trained)(state.params)
        return found, grads if part is None else grads[part]


def own_step(
    update: Callable[..., Any], state: TrainState, batch: Batch, step: Step, optimizer: Any
) -> tuple[TrainState, Outputs]:
    """Make a train step of the user's own: a `Task.update`, whose result is checked.

    Raises:
        TypeError: If it returns no pair of a train state and a dict with "loss".
        ValueError: If the train state is of another form.
    """
    made = update(state, batch, step, optimizer)
    pair = isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], TrainState)
    if not (pair and isinstance(made[1], Mapping) and "loss" in made[1]):
        raise TypeError(
            "update must return (state, outputs), a TrainState and a dict with 'loss', got "
            f"{type(made).__name__}."
        )
    new, outputs = made
    if isinstance(state.opt_state, Parts) and isinstance(new.opt_state, Mapping):
        new = new._replace(opt_state=Parts(dict(new.opt_state)))
    for name in ("params", "model_state", "opt_state"):
        if what := changes_of_form(getattr(new, name), getattr(state, name)):
            raise ValueError(
                f"update changes the form of the state's {name}: it {what}. Structure, shapes and "
                "dtypes must stay as they were."
            )
    return new._replace(average=state.average), weighted(outputs, batch)


def train_step(
    state: TrainState,
    batch: Batch,
    step: Step,
    optimizer: optax.GradientTransformationExtraArgs,
) -> tuple[TrainState, Outputs]:
    """Make one train step.

    Args:
        state: The train state before.
        batch: What the loss takes.
        step: Which step it is, with its key and the loss.
        optimizer: As `make_optimizer` puts it together.

    Returns:
        The train state after, with dtypes as before, and the loss's outputs with "loss",
        "weight" (the number of examples, int32) and, as float32 scalars, the norms
        "grad_norm", "update_norm", "param_norm" and "update_ratio" (the update's over the
        parameters') among them. What a compiled program doesn't use, it doesn't compute.
    """
    scale, trained = scale_of_loss(state.opt_state), _Trained(state)
    loss = lambda params: step.loss_of(params, state.model_state, batch)
    gradient_of = _gradient_of(loss, state.params, trained)
    (value, (model_state, outputs)), grads = gradient_of(state.params, scale)
    check_form_of_state(model_state, state.model_state)
    outputs = weighted(outputs, batch, loss=value)
    true_grads = grads if scale is None else unscaled(grads, scale)
    if accumulates(state.opt_state):
        extra = {"value": value, "weight": outputs["weight"]}
    else:
        value_fn = lambda params: loss(params)[0]
        grad_fn = lambda params, *_: gradient_of(params)[1]
        extra = {"value": value, "grad": true_grads, "value_fn": value_fn, "grad_fn": grad_fn}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, **extra)
    params = optax.apply_updates(state.params, updates)
    params = trained.put(state.params, trained.of(params))
    if scale is not None:
        outputs = {"loss_scale": scale, **outputs}
    outputs = {**norms(state, true_grads, updates), **outputs}
    return state._replace(params=params, model_state=model_state, opt_state=opt_state), outputs


def _gradient_of(
    loss: Callable[[PyTree], Any], params: PyTree, trained: _Trained
) -> Callable[..., tuple[Any, PyTree]]:
    """Return a function: parameters to what the loss returns, and to its gradient.

    Args:
        loss: `params -> (loss, aux)`.
        params: Parameters like those that it is called with.
        trained: Which of them are differentiated; of the others the gradient is 0.
    """
    convolves = slow_in_loops(loss, params)

    def gradient_of(params: PyTree, factor: Any = None) -> tuple[Any, PyTree]:
        def scaled(leaves: Sequence[jax.Array]) -> tuple[jax.Array, Any]:
            value, aux = loss(trained.put(params, leaves))
            return (value if factor is None else value * factor), (value, aux)

        gradient = jax.grad(scaled, has_aux=True)
        if convolves:
            gradient = for_loops(gradient)
        grads, found = gradient(trained.of(params))
        return found, trained.put(jax.tree.map(jnp.zeros_like, params), grads)

    return gradient_of


class _Trained:
    """Which leaves of the parameters, or of a part, are trained: those that `freeze` leaves."""

    def __init__(self, state: TrainState, part: str | None = None):
        parts = state.params.keys() if isinstance(state.params, Mapping) else ()
        if part is not None and part not in parts:
            raise ValueError(f"part={part!r} is none of the parameters': {sorted(parts)}.")
        frozen = frozen_names(state.opt_state)
        self._mask: list[bool] = []
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
            name = name_of(path)
            mine = name not in frozen and (part is None or f"{name}/".startswith(f"{part}/"))
            self._mask.append(mine)
            if mine and not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                raise ValueError(
                    f"the parameter {name!r} is {jnp.result_type(leaf)}, which has no gradient: "
                    f"freeze it, as in ody.freeze(optimizer, ['^{name}$']), or leave it out of "
                    "what the task trains, by its trainable=."
                )

    def of(self, tree: PyTree) -> list[Any]:
        """Return the trained leaves of a tree in the form of the parameters."""
        return [x for x, mine in zip(jax.tree.leaves(tree), self._mask, strict=True) if mine]

    def put(self, tree: PyTree, trained: Sequence[Any]) -> PyTree:
        """Return the tree with other leaves in the place of the trained ones."""
        leaves, structure = jax.tree.flatten(tree)
        new = iter(trained)
        pairs = zip(leaves, self._mask, strict=True)
        return jax.tree.unflatten(structure, [next(new) if mine else x for x, mine in pairs])


def norms(state: TrainState, grads: PyTree, updates: PyTree) -> dict[str, jax.Array]:
    """Return the global norms of a train step; an output of the user's own may replace one.

    Args:
        state: The train state before; what is frozen in it does not count.
        grads: The gradient, before clipping and accumulation.
        updates: What is added to the parameters.

    Returns:
        "grad_norm", "update_norm", "param_norm" and "update_ratio", float32 scalars.
    """
    trees = {"grad_norm": grads, "update_norm": updates, "param_norm": state.params}
    trained = _Trained(state)
    found = {name: _norm(trained.of(tree)) for name, tree in trees.items()}
    # Parameters that are all 0 have no ratio: the first update is infinitely more.
    return found | {"update_ratio": found["update_norm"] / found["param_norm"]}


@jax.jit  # many small operations a leaf: traced once for the three of them
def _norm(tree: PyTree) -> jax.Array:
    norm = optax.tree.norm(tree)
    return jnp.asarray(norm, real_dtype(norm))


def weighted(outputs: Outputs, batch: Batch, **more: jax.Array) -> dict[str, Any]:
    """Add to a batch's outputs how many examples it stands for: a smaller batch weighs less.

    A mask among the outputs says which examples count; a weight of the user's own is left alone.
    """
    if "mask" in outputs:
        examples = jnp.sum(outputs["mask"], dtype=jnp.int32)
    else:
        examples = jnp.asarray(jax.tree.leaves(batch)[0].shape[0], jnp.int32)
    return {"weight": examples, **outputs, **more}
