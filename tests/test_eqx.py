"""`eqx_task`: Equinox models, with dropout, batch statistics, integers and parts untrained."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples
from tests.examples import assert_same


class Net(eqx.Module):
    hidden: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear
    table: jax.Array
    act: object

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.hidden = eqx.nn.Linear(4, 8, key=a)
        self.dropout = eqx.nn.Dropout(0.3)
        self.head = eqx.nn.Linear(8, examples.CLASSES, key=b)
        self.table, self.act = jnp.arange(8, dtype=jnp.int32), jax.nn.relu

    def __call__(self, x, key=None):
        x = self.act(self.hidden(x)) * (1 + self.table)
        return self.head(self.dropout(x, key=key))


class WithNorm(eqx.Module):
    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        self.hidden = eqx.nn.Linear(4, examples.CLASSES, key=key)
        self.norm = eqx.nn.BatchNorm(examples.CLASSES, axis_name="batch", mode="batch")

    def __call__(self, x, state):
        return self.norm(self.hidden(x), state)


def loss_fn(model, batch, key):
    keys = jax.random.split(key, len(batch["y"]))
    return examples.cross_entropy(jax.vmap(model)(batch["x"], keys), batch["y"])


def stateful_loss(model, batch):
    model, state = model
    apply = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    logits, state = apply(batch["x"], state)
    loss, outputs = examples.cross_entropy(logits, batch["y"])
    return loss, {**outputs, "state": state}


def net_task(**how):
    return ody.eqx_task(Net(jax.random.key(0)), loss_fn, **how)


def norm_task():
    made = eqx.nn.make_with_state(WithNorm)(jax.random.key(0))
    return ody.eqx_task(made, stateful_loss)


def fit(task, directory=None, epochs=4, **how):
    return ody.fit(
        task, optax.adam(0.02), examples.train_data(), examples.valid_data(), epochs=epochs,
        metrics={"accuracy": ody.Accuracy()}, directory=directory, writers=[], **how,
    )  # fmt: skip


TASKS = {
    "net": net_task,
    "with a state": norm_task,
    "a part": lambda: net_task(trainable=["^head/"]),
}


@pytest.mark.parametrize("name", TASKS)
def test_it_is_trained_and_resumes_to_the_bit(name, tmp_path):
    ody.testing.check_task(TASKS[name](), jax.tree.map(lambda x: x[:8], examples.arrays()))
    whole = fit(TASKS[name]())
    assert whole.history["train/loss"][-1] < whole.history["train/loss"][0]
    fit(TASKS[name](), tmp_path, epochs=2)
    cut = fit(TASKS[name](), tmp_path)
    assert_same(cut.carry, whole.carry)
    loaded = jax.tree.leaves(ody.load_params(tmp_path))
    want = jax.tree.leaves(eqx.filter(cut.model, eqx.is_array))
    assert {x.shape for x in loaded} <= {x.shape for x in want}


def test_it_is_validated_in_inference_mode_and_given_back_so():
    result = fit(net_task())
    model, valid = result.model, examples.arrays(22, seed=1)
    assert model.dropout.inference
    assert model.act is jax.nn.relu
    loss, _ = examples.cross_entropy(jax.vmap(model)(jnp.asarray(valid["x"])), valid["y"])
    assert float(result.metrics["valid/loss"]) == pytest.approx(float(loss), rel=1e-5)


def test_the_state_is_carried_and_given_back():
    task = norm_task()
    model, state = fit(task).model
    _, first = task.init(None)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), first, state)
    assert any(jax.tree.leaves(moved))
    logits, _ = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(
        jnp.ones((2, 4)), state
    )
    assert logits.shape == (2, examples.CLASSES)


def test_what_is_not_trained_stays():
    before = Net(jax.random.key(0))
    after = fit(net_task(trainable=["^head/"])).model
    assert_same(after.hidden.weight, before.hidden.weight)
    np.testing.assert_array_equal(after.table, before.table)
    assert bool(jnp.any(after.head.weight != before.head.weight))


def test_it_steps_as_a_loop_of_plain_equinox_does():
    def plain(model, batch):
        return examples.cross_entropy(jax.vmap(model)(batch["x"]), batch["y"])

    model = eqx.nn.MLP(4, examples.CLASSES, 8, depth=1, key=jax.random.key(1))
    data = ody.ArrayDataset(examples.arrays(), 8)
    result = ody.fit(ody.eqx_task(model, plain), optax.adam(0.02), data, epochs=1, writers=[],
                     log_every_n_steps=1)  # fmt: skip
    optimizer = optax.adam(0.02)
    state, losses = optimizer.init(eqx.filter(model, eqx.is_inexact_array)), []
    for i in range(5):
        batch = jax.tree.map(lambda x, i=i: jnp.asarray(x[8 * i : 8 * i + 8]), examples.arrays())
        (loss, _), grads = eqx.filter_value_and_grad(plain, has_aux=True)(model, batch)
        updates, state = optimizer.update(grads, state)
        model = eqx.apply_updates(model, updates)
        losses.append(loss)
    np.testing.assert_allclose(result.samples["loss"], losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ody.eqx_task({"w": jnp.ones(3)}, loss_fn), TypeError, "an equinox.Module, or a"),
        (lambda: ody.eqx_task(Net(jax.random.key(0)), 3), TypeError, "loss_fn must be a function"),
        (lambda: ody.eqx_task(eqx.nn.Dropout(), loss_fn), ValueError, "nothing is trained"),
        (lambda: net_task(trainable=["tail"]), ValueError, "'tail' is found in no parameter"),
        (
            lambda: fit(norm_task()._replace(loss=ody.eqx_task(
                eqx.nn.make_with_state(WithNorm)(jax.random.key(0)),
                lambda model, batch: stateful_loss(model, batch)[0],
            ).loss)),
            ValueError,
            r"must return it among the outputs, .* outputs are \[\]",
        ),
        (lambda: ody.pure_task(Net(jax.random.key(0)), loss_fn), TypeError, "eqx_task.model, loss"),
    ],
)  # fmt: skip
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
