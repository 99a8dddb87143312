"""The checker for tasks: every kind of ours passes, and each broken one is told."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples

BATCH = jax.tree.map(lambda x: x[:8], examples.arrays())


@pytest.mark.parametrize("name", sorted(examples.TASKS))
def test_ours_pass(name):
    ody.testing.check_task(examples.TASKS[name](), BATCH)


def test_the_same_task_passes_again():
    for _ in range(3):
        ody.testing.check_task(examples.linear_task(), BATCH)


CALLS = []


def init(key):
    return {"w": jax.random.normal(key, (3,))}, {"steps": jnp.zeros((), jnp.int32)}


def loss(params, model_state, batch, key):
    del key
    value = ((batch @ params["w"] - 1) ** 2).mean()
    return value, ({"steps": model_state["steps"] + 1}, {"square": value**2})


def evaluate(params, model_state, batch):
    return {"loss": loss(params, model_state, batch, None)[0]}


RIGHT = ody.Task(init, loss, evaluate)


def with_loss(change):
    """The task whose loss is changed: `(loss, model_state, outputs, params) -> what it returns`."""

    def changed(params, model_state, batch, key):
        value, (state, outputs) = loss(params, model_state, batch, key)
        return change(value, state, outputs, params)

    return RIGHT._replace(loss=changed)


def remembering(key):
    CALLS.append(key)
    return {"w": jnp.full(3, len(CALLS), jnp.float32)}, {"steps": jnp.int32(0)}


class Unhashable:
    __hash__ = None

    def __call__(self, *args):
        return loss(*args)


@pytest.mark.parametrize(
    "task",
    [
        RIGHT,
        # A Python number among the state and the outputs, as a loop takes them too.
        with_loss(lambda x, state, out, p: (x, ({"steps": jnp.where(x > 0, 1, 2)}, {"n": 3}))),
    ],
)
def test_what_is_right_passes(task):
    ody.testing.check_task(task, jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (RIGHT._replace(loss=Unhashable()), "loss can't be hashed .*frozen dataclass"),
        (RIGHT._replace(init=lambda key: {"w": 0.0}), r"init must return \(params, model_state\)"),
        (RIGHT._replace(init=lambda key: ({"w": 0.0}, None)), r"params\['w'\] that init makes is"),
        (RIGHT._replace(init=remembering), "init, called again with the same key, gives"),
        (with_loss(lambda x, *rest: x), r"loss must return \(loss, \(model_state, outputs\)\)"),
        (
            with_loss(lambda x, state, out, p: (p["w"], (state, out))),
            "the loss must be a floating-point scalar, the mean over the batch",
        ),
        (
            with_loss(lambda x, state, out, p: (x, ({}, out))),
            "the model_state has another form than it had, and structure, shapes",
        ),
        (
            with_loss(lambda x, state, out, p: (x, ({"steps": x}, out))),
            "the model_state has another form.*float32",
        ),
        (with_loss(lambda x, state, out, p: (x, (state, x))), "outputs of loss must be a dict"),
        (
            with_loss(lambda x, state, out, p: (jnp.log(x - x), (state, out))),
            "the loss is not finite for the first parameters: check the data",
        ),
        (
            with_loss(lambda x, state, out, p: (x + jnp.sqrt(0 * p["w"]).sum(), (state, out))),
            "the gradient is not finite for the first parameters.*'w'",
        ),
        (RIGHT._replace(evaluate=lambda *args: {}), "evaluate must return a dict with 'loss'"),
        (RIGHT._replace(evaluate=lambda *args: 0.0), "outputs of evaluate must be a dict"),
        (
            RIGHT._replace(evaluate=lambda params, *args: {"loss": params["w"]}),
            r"the loss of evaluate must be a scalar, got shape \(3,\)",
        ),
    ],
)
def test_what_is_wrong_is_told(task, message):
    with pytest.raises(AssertionError, match=message):
        ody.testing.check_task(task, jnp.ones((2, 3)))


def test_a_batch_that_does_not_fit_is_named_by_jax():
    with pytest.raises(TypeError):
        ody.testing.check_task(RIGHT, np.ones((2, 4), np.float32))


def own(change=lambda state, outputs: (state, outputs)):
    """The task with a step of its own, of which something is changed."""

    def update(state, batch, step, optimizer):
        (value, (model_state, outputs)), grads = step.value_and_grad(state, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = state._replace(params=params, model_state=model_state, opt_state=opt_state)
        return change(state, {**outputs, "loss": value})

    return RIGHT._replace(update=update)


def test_a_step_of_ones_own_is_run_with_the_optimizers_that_it_takes():
    batch = jnp.ones((2, 3))
    ody.testing.check_task(own(), batch)
    for optimizer in (optax.adam, optax.adam(0.1), optax.MultiSteps(optax.sgd(0.1), 2)):
        ody.testing.check_task(own(), batch, optimizer=optimizer)

    def by_name(state, batch, step, optimizer):
        (value, (model_state, _)), grads = step.value_and_grad(state, batch, part="w")
        updates, of_w = optimizer["w"].update(grads, state.opt_state["w"], state.params["w"])
        params = {"w": optax.apply_updates(state.params["w"], updates)}
        new = {"params": params, "model_state": model_state}
        return state._replace(**new, opt_state=state.opt_state | {"w": of_w}), {"loss": value}

    ody.testing.check_task(RIGHT._replace(update=by_name), batch, optimizer={"w": optax.adam})
    with pytest.raises(ValueError, match="optimizer= has no effect on a task without an update"):
        ody.testing.check_task(RIGHT, batch, optimizer=optax.adam)


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        (RIGHT._replace(update=Unhashable()), AssertionError, "update can't be hashed"),
        (own(lambda state, outputs: state), TypeError, r"must return \(state, outputs\)"),
        (
            own(lambda state, outputs: (state._replace(model_state={}), outputs)),
            ValueError,
            "changes the form of the state's model_state: it removes steps",
        ),
        (
            own(lambda state, outputs: (state, {"loss": outputs["loss"] * jnp.nan})),
            AssertionError,
            "the loss of update is not finite",
        ),
        (
            own(lambda state, outputs: (state, {"loss": state.params["w"]})),
            AssertionError,
            r"the loss of update must be a scalar, got shape \(3,\)",
        ),
    ],
)
def test_a_step_of_ones_own_that_is_wrong_is_told(task, error, message):
    with pytest.raises(error, match=message):
        ody.testing.check_task(task, jnp.ones((2, 3)))
