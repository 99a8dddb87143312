"""Check that a task keeps what every task promises."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from odyssey_jax._types import Batch, OptimizerLike, PyTree, Task, Told, TrainState, told
from odyssey_jax.schedules import constant
from odyssey_jax.testing._compare import (
    check,
    check_arrays,
    check_form,
    check_hashable,
    check_same,
)
from odyssey_jax.train import Optimizers, Step, init_optimizers, make_optimizers, own_step

_RATE = 1e-3  # of the step of gradient descent between the two updates


def check_task(
    task: Task[Any],
    batch: Batch,
    *,
    optimizer: OptimizerLike | None = None,
    seed: int = 0,
) -> None:
    """Check a task of one's own: that a loop can compile, carry and train it.

    - `init` gives arrays, and the same for the same key, compiled or not;
    - `loss` gives a scalar, a model state of the form that it was given, and a dict of arrays;
      with the same key it gives the same again;
    - the gradient is finite, and so is the loss;
    - `evaluate` gives a dict of arrays, of which "loss" is a scalar;
    - both are traced once: what one step makes can be given to the next;
    - both can be hashed, since a compiled program is found by them;
    - `rebuild` makes a model of the parameters;
    - an `update` of one's own gives a train state of the form that it was given, and a dict of
      arrays with "loss"; it is finite, the same with the same key, and traced once.

    Args:
        task: The one to check.
        batch: A batch of the data that it is to be trained on.
        optimizer: What `update` is given, as `fit` takes it: an Optax transformation, a function
            that makes one of a rate, or a mapping of these; None is `optax.sgd`.
        seed: Of the keys for `init` and `loss`.

    Raises:
        AssertionError: If it does not do one of these; the message says which, and the remedy.
        TypeError: If `update` returns no pair of a train state and outputs, as in `fit`.
        ValueError: If the train state that it returns is of another form, as in `fit`.

    Example:
        >>> import jax.numpy as jnp, odyssey_jax as ody
        >>> task = ody.pure_task({"w": jnp.zeros(3)}, lambda p, x: ((x @ p["w"] - 1) ** 2).mean())
        >>> ody.testing.check_task(task, jnp.ones((2, 3)))
    """
    functions = ("loss", "evaluate", *(["update"] if task.update is not None else []))
    for name in functions:
        remedy = "use a function or a frozen dataclass, with no arrays, lists or dicts in it."
        function = getattr(task, name)
        check_hashable(name, function, copy.copy(function), remedy)
    init_key, key = jax.random.split(jax.random.key(seed))
    made = params, model_state = _check_init(task, init_key)
    new_params, new_state, outputs = _check_loss(task, params, model_state, batch, key)
    _check_outputs("outputs of loss", outputs)
    _check_evaluate(task, (params, model_state), (new_params, new_state), batch)
    task.rebuild(new_params, new_state)
    if task.update is not None:
        _check_update(task, optax.sgd if optimizer is None else optimizer, made, batch, key)
    elif optimizer is not None:
        raise ValueError("optimizer= has no effect on a task without an update of its own.")


def _check_init(task: Task, key: jax.Array) -> tuple[PyTree, PyTree]:
    made = task.init(key)
    pair = isinstance(made, tuple) and len(made) == 2
    check(pair, f"init must return (params, model_state), got {type(made).__name__}.")
    for name, tree in zip(("params", "model_state"), made, strict=True):
        check_arrays(f"{name}{{}} that init makes", tree)
    check_same("init, called again with the same key,", task.init(key), made)
    check_form("result of init under jax.jit", jax.jit(task.init)(key), made)
    return made


def _check_loss(
    task: Task, params: PyTree, model_state: PyTree, batch: Batch, key: jax.Array
) -> tuple[PyTree, PyTree, Any]:
    """Take two steps of gradient descent; return what the first one makes."""
    import chex

    more = told(task.loss, _where(key), ("step", "progress"))

    def step(params: PyTree, model_state: PyTree, key: jax.Array) -> Any:
        def loss(params: PyTree) -> Any:
            value, (state, outputs) = _returned(task.loss(params, model_state, batch, key, **more))
            # A weak type is no other form to a loop, which makes it strong.
            return value, (_strong(state), outputs)

        (value, (state, outputs)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        descended = jax.tree.map(lambda p, g: p - jnp.asarray(_RATE, p.dtype) * g, params, grads)
        return descended, state, outputs, value, grads

    traced, count = _counted(step)
    compiled = jax.jit(traced)
    descended, state, outputs, value, grads = compiled(params, model_state, key)
    check_form("model_state", state, model_state)
    _check_finite(chex, "loss", value)
    _check_finite(chex, "gradient", grads)
    again = compiled(params, model_state, key)
    check_same("loss, called again with the same key,", again[1:4], (state, outputs, value))
    compiled(descended, state, key)
    _check_traces("loss", count)
    return descended, state, outputs


def _check_evaluate(task: Task, before: Any, after: Any, batch: Batch) -> None:
    more = told(task.evaluate, _where(jax.random.key(0)))
    traced, count = _counted(lambda params, state: task.evaluate(params, state, batch, **more))
    compiled = jax.jit(traced)
    outputs = compiled(*before)
    _check_outputs("outputs of evaluate", outputs)
    check("loss" in outputs, f"evaluate must return a dict with 'loss', got {sorted(outputs)}.")
    shape = jnp.shape(outputs["loss"])
    check(shape == (), f"the loss of evaluate must be a scalar, got shape {shape}.")
    compiled(*after)
    _check_traces("evaluate", count)


def _check_update(task: Task, optimizer: Any, made: Any, batch: Batch, key: jax.Array) -> None:
    """Take two steps of the task's own."""
    import chex

    assert task.update is not None
    update, (params, model_state) = task.update, made
    optimizer, rate = Optimizers.of(optimizer), constant(_RATE)
    several = isinstance(optimizer, Optimizers)
    rate = dict.fromkeys(optimizer.names, rate) if several else rate
    given = make_optimizers(optimizer, rate, None, 1)
    opt_state = init_optimizers(given, params)
    first = TrainState(_strong(params), _strong(model_state), _strong(opt_state))
    where = dataclasses.asdict(_where(key))

    def step(state: TrainState, key: jax.Array) -> Any:
        at = Step(**{**where, "key": key}, loss=task.loss)
        return own_step(update, state, batch, at, given)

    traced, count = _counted(step)
    compiled = jax.jit(traced)
    state, outputs = compiled(first, key)
    _check_outputs("outputs of update", outputs)
    shape = jnp.shape(outputs["loss"])
    check(shape == (), f"the loss of update must be a scalar, got shape {shape}.")
    _check_finite(chex, "loss of update", outputs["loss"])
    _check_finite(chex, "parameters after update", state.params)
    check_same("update, called again with the same key,", compiled(first, key)[0], state)
    compiled(state, key)
    _check_traces("update", count)


def _where(key: jax.Array) -> Told:
    return Told(key, jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32))


def _returned(returned: Any) -> Any:
    pair = isinstance(returned, tuple) and len(returned) == 2
    inner = pair and isinstance(returned[1], tuple) and len(returned[1]) == 2
    check(inner, f"loss must return (loss, (model_state, outputs)), got {returned!r}.")
    loss = returned[0]
    good = jnp.shape(loss) == () and jnp.issubdtype(jnp.result_type(loss), jnp.floating)
    check(good, f"the loss must be a floating-point scalar, the mean over the batch; got {loss!r}.")
    return returned


def _check_outputs(what: str, outputs: Any) -> None:
    check(isinstance(outputs, Mapping), f"the {what} must be a dict, got {outputs!r}.")
    check_arrays(f"the {what}: {{}}", dict(outputs))


def _check_finite(chex: Any, what: str, tree: PyTree) -> None:
    try:
        chex.assert_tree_all_finite(tree)
    except AssertionError as error:
        where = " ".join(str(error).split())
        raise AssertionError(
            f"the {what} is not finite for the first parameters: check the data, and what is "
            f"divided, rooted or put into a logarithm. {where}"
        ) from error


def _counted(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[None]]:
    """Return the function, and a list that grows with each trace.

    Not `chex.assert_max_traces`, which counts by source line for the whole process: the second
    task that is checked would be one trace too many.
    """
    count: list[None] = []

    def counted(*args: Any) -> Any:
        count.append(None)
        return function(*args)

    return counted, count


def _check_traces(what: str, count: list[None]) -> None:
    check(
        len(count) == 1,
        f"{what} is traced {len(count)} times for two steps of the same form, so each step of a "
        "loop would be compiled anew: it must return arrays like those it is given.",
    )


def _strong(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), tree)
