"""One update: the gradient, the optimizer, the new state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from odyssey_jax._opt_state import Parts
from odyssey_jax._types import (
    Batch,
    ModelState,
    Outputs,
    PyTree,
    Told,
    TrainState,
    real_dtype,
    told,
)
from odyssey_jax.train._convolutions import for_loops, slow_in_loops
from odyssey_jax.train._user_functions import (
    changes_of_form,
    check_form_of_state,
    name_of,
    with_loss,
)
from odyssey_jax.transforms import (
    accumulates,
    frozen_names,
    scale_of_loss,
    unscaled,
    with_held_state,
)


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
    new = new._replace(average=state.average, model_state=_held(state, new.model_state))
    return new, weighted(outputs, batch)


def _held(state: TrainState, new: PyTree) -> PyTree:
    """Return a new model state with what `freeze` holds as it was."""
    old = state.model_state
    if isinstance(old, ModelState):
        whose = (state.opt_state, state.params, new.updated, old.updated)
        return new._replace(updated=with_held_state(*whose))
    return with_held_state(state.opt_state, state.params, new, old)


def train_step(
    state: TrainState,
    batch: Batch,
    step: Step,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    reads_norms: Callable[[Outputs], bool] = lambda outputs: True,
) -> tuple[TrainState, Outputs]:
    """Make one train step.

    Args:
        state: The train state before.
        batch: What the loss takes.
        step: Which step it is, with its key and the loss.
        optimizer: As `make_optimizer` puts it together.
        reads_norms: Whether anything reads a norm among the outputs, which are given in their
            form. If not they are 0: to trace them takes a while where there are many parameters.

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
    model_state = _held(state, model_state)
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
    measured = empty_norms(state)
    if reads_norms({**measured, **outputs}):
        measured = norms(state, true_grads, updates)
    state = state._replace(params=params, model_state=model_state, opt_state=opt_state)
    return state, {**measured, **outputs}


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


NORMS = "grad_norm", "update_norm", "param_norm", "update_ratio"


def norms(state: TrainState, grads: PyTree, updates: PyTree) -> dict[str, jax.Array]:
    """Return the global norms of a train step; an output of the user's own may replace one.

    Args:
        state: The train state before; what is frozen in it does not count.
        grads: The gradient, before clipping and accumulation.
        updates: What is added to the parameters.

    Returns:
        "grad_norm", "update_norm", "param_norm" and "update_ratio", float32 scalars.
    """
    trees = dict(zip(NORMS[:3], (grads, updates, state.params), strict=True))
    trained = _Trained(state)
    found = {name: _norm(trained.of(tree)) for name, tree in trees.items()}
    # Parameters that are all 0 have no ratio: the first update is infinitely more.
    return found | {"update_ratio": found["update_norm"] / found["param_norm"]}


def empty_norms(state: TrainState) -> dict[str, jax.Array]:
    """Return zeros in the form of `norms`."""
    trained = _Trained(state).of(state.params)
    wide = any(jnp.finfo(x.dtype).dtype == jnp.float64 for x in trained)
    return dict.fromkeys(NORMS, jnp.zeros((), jnp.float64 if wide else jnp.float32))


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
