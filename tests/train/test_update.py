"""Steps of one's own, and optimizers by name: GANs, DP-SGD, target networks, SAM."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import odyssey_jax as ody
from odyssey_jax.train import make_loop, train_step
from tests import examples

X = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
DATA = ody.ArrayDataset(X, 4)
BOTH = {"d": optax.sgd, "g": optax.adam}
RATES = {"d": ody.linear(0.1, 0.0, 16), "g": 0.01}


def fit(task, optimizer, data=DATA, **how):
    return ody.fit(task, optimizer, data, **{"epochs": 2, "writers": [], **how})


# Optimizers by name, for the parts of the parameters.

PARTS = {"d": {"w": jnp.ones(2)}, "g": {"w": jnp.ones(2), "b": jnp.zeros(())}}


def bowl(params, batch):
    centre = batch.mean(0)
    return sum(jnp.sum((x - centre) ** 2) for x in (params["d"]["w"], params["g"]["w"]))


def test_each_part_has_its_optimizer_and_rate():
    result = fit(ody.pure_task(PARTS, bowl), BOTH, learning_rate=RATES)
    alone = {
        name: fit(
            ody.pure_task(PARTS[name], lambda p, batch: jnp.sum((p["w"] - batch.mean(0)) ** 2)),
            BOTH[name],
            learning_rate=RATES[name],
        )
        for name in BOTH
    }
    for name, run in alone.items():
        np.testing.assert_allclose(result.model[name]["w"], run.model["w"], rtol=1e-6)
        rates = (result.history[f"learning_rate/{name}"], run.history["learning_rate"])
        np.testing.assert_array_equal(*rates)
    assert "learning_rate" not in result.history


def test_attributes_of_an_nnx_model_are_parts():
    task, how = examples.nnx_task(), {"learning_rate": {"hidden": 0.1, "norm": 0.1}}
    made = {"hidden": optax.sgd, "norm": optax.sgd, "head": optax.set_to_zero()}
    result = fit(task, made, examples.train_data(), clip_norm=1.0, accumulate_steps=2, **how)
    before = task.init(jax.random.key(0))[0]
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, result.state.params)
    assert all(jax.tree.leaves((moved["hidden"], moved["norm"])))
    assert not any(jax.tree.leaves(moved["head"]))


@pytest.mark.parametrize("frozen", [False, True])
def test_parts_may_search_lines_be_frozen_and_be_schedule_free(frozen):
    free = optax.contrib.schedule_free_sgd(0.1)
    g = ody.freeze(free, ["^w"]) if frozen else free
    result = fit(ody.pure_task(PARTS, bowl), {"d": optax.lbfgs(), "g": g})
    assert bool(jnp.any(result.model["d"]["w"] != 1))
    assert bool(jnp.all(result.model["g"]["w"] == 1)) == frozen
    raw = result.carry.state.params["g"]["w"]
    assert bool(jnp.all(raw == result.model["g"]["w"])) == frozen


def test_a_changed_rate_is_named_on_resume(tmp_path):
    task = ody.pure_task(PARTS, bowl)
    how = {"directory": tmp_path, "epochs": 4}
    fit(task, BOTH, learning_rate=RATES, directory=tmp_path)
    other = {"d": ody.linear(0.1, 0.0, 16), "g": 0.02}
    with pytest.raises(ValueError, match="begun with another learning rate of 'g'.*0.01.*0.02"):
        fit(task, BOTH, learning_rate=other, **how)
    resumed = fit(task, BOTH, learning_rate=RATES, **how)
    whole = fit(task, BOTH, learning_rate=RATES, epochs=4)
    examples.assert_same(resumed.carry.state, whole.carry.state)


@pytest.mark.parametrize(
    ("optimizer", "rate", "message"),
    [
        ({"d": optax.sgd}, {"d": 0.1}, r"optimizers of \['d'\] don't fit.*parts are \['d', 'g'\]"),
        ({**BOTH, "x": optax.sgd(0.1)}, RATES, r"optimizers of \['d', 'g', 'x'\] don't fit"),
        (BOTH, 0.1, r"learning_rate=0.1 must be a mapping as the optimizers are"),
        (BOTH, {"d": 0.1}, "of 'g': optimizer=.*is a function of a learning rate"),
        (BOTH, {**RATES, "x": 0.1}, r"learning_rate has \['x'\], and the optimizers are"),
        (optax.sgd, RATES, "is a mapping, and the optimizer is not"),
        ({}, None, "must be a mapping from the names of the parameters' parts"),
    ],
)
def test_mappings_that_do_not_fit_are_refused(optimizer, rate, message):
    with pytest.raises(ValueError, match=message):
        fit(ody.pure_task(PARTS, bowl), optimizer, learning_rate=rate)


def test_equal_mappings_share_a_program():
    task = ody.pure_task(PARTS, bowl)
    assert make_loop(task, dict(BOTH)) == make_loop(task, dict(BOTH))
    assert make_loop(task, BOTH) != make_loop(task, {**BOTH, "d": optax.adam})


# Steps of one's own.


def plain(state, batch, step, optimizer):
    return train_step(state, batch, step, optimizer)


def by_hand(state, batch, step, optimizer):
    (loss, (model_state, outputs)), grads = step.value_and_grad(state, batch)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state._replace(params=params, model_state=model_state, opt_state=opt_state)
    return state, {**outputs, "loss": loss}


@pytest.mark.parametrize("update", [plain, by_hand])
@pytest.mark.parametrize("kind", ["nnx", "linen", "pure"])
def test_the_train_step_as_ones_own_is_the_train_step(kind, update):
    task = examples.TASKS[kind]()
    how = {"learning_rate": ody.linear(0.1, 0.0, 10), "clip_norm": 1.0}
    runs = [
        fit(given, optax.adam, examples.train_data(), **how)
        for given in (task, task._replace(update=update))
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        runs[0].state.params,
        runs[1].state.params,
    )
    for column in ("train/loss", "learning_rate"):
        np.testing.assert_allclose(runs[0].history[column], runs[1].history[column], rtol=1e-5)


class Gan(nnx.Module):
    def __init__(self, rngs):
        self.d, self.g = nnx.Linear(2, 1, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)

    def fake(self, key, count):
        return self.g(jax.random.normal(key, (count, 3)))


def d_loss(model, batch, key):
    real, fake = model.d(batch), model.d(model.fake(key, len(batch)))
    return (jax.nn.softplus(-real) + jax.nn.softplus(fake)).mean()


def g_loss(model, batch, key):
    return jax.nn.softplus(-model.d(model.fake(key, len(batch)))).mean()


def alternating(state, batch, step, optimizer):
    """The discriminator at each step, the generator at every second one."""
    losses = {}
    for name, loss_fn in (("d", d_loss), ("g", g_loss)):
        found, grads = step.value_and_grad(state, batch, loss_fn, part=name)
        losses[name] = found[0]
        own, opt_state = state.params[name], state.opt_state[name]
        updates, new = optimizer[name].update(grads, opt_state, own)
        due = (name == "d") | (step.step % 2 == 0)
        keep = lambda new, old, due=due: jax.tree.map(lambda a, b: jnp.where(due, a, b), new, old)
        params = {**state.params, name: keep(optax.apply_updates(own, updates), own)}
        opt_states = state.opt_state | {name: keep(new, opt_state)}
        state = state._replace(params=params, opt_state=opt_states)
    return state, {"loss": losses["d"], "g_loss": losses["g"]}


def gan(update=alternating):
    return ody.nnx_task(Gan(nnx.Rngs(0)), d_loss, update=update)


def gan_by_hand(task, steps):
    """The same in plain JAX, with the run's own keys and batches."""
    keys = ody.train.Keys.of(jax.random.key(0))
    params, _ = task.init(keys.init)
    made = {"d": optax.sgd(ody.linear(0.1, 0.0, 16)), "g": optax.adam(0.01)}
    states = {name: one.init(params[name]) for name, one in made.items()}
    for number in range(steps):
        key = jax.random.fold_in(jax.random.fold_in(keys.step, number), 0x6C6F_7373)
        batch = jnp.asarray(X[4 * (number % 4) :][:4])
        for name, loss_fn in (("d", d_loss), ("g", g_loss)):

            def loss(own, name=name, loss_fn=loss_fn, params=params, batch=batch, key=key):
                return loss_fn(task.rebuild({**params, name: own}, {}), batch, key)

            if name == "d" or number % 2 == 0:
                grads = jax.grad(loss)(params[name])
                updates, states[name] = made[name].update(grads, states[name])
                params = {**params, name: optax.apply_updates(params[name], updates)}
    return params


def test_a_gan_alternates_and_its_rates_follow_its_own_updates(tmp_path):
    how = {"learning_rate": RATES, "train_metrics": {"g": ody.Mean("g_loss")}}
    result = fit(gan(), BOTH, **how)
    want = gan_by_hand(gan(), 8)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        result.state.params,
        want,
    )
    counts = {name: int(x.updates) for name, x in result.carry.state.opt_state.items()}
    assert counts == {"d": 8, "g": 4}
    np.testing.assert_allclose(result.history["learning_rate/d"], [0.1 * 13 / 16, 0.1 * 9 / 16])
    assert np.isfinite(result.metrics["train/g"])
    fit(gan(), BOTH, **how, epochs=1, directory=tmp_path)
    examples.assert_same(
        fit(gan(), BOTH, **how, directory=tmp_path).carry.state, result.carry.state
    )


def private(state, batch, step, optimizer):
    """Gradients of single examples, which Optax clips and adds noise to."""
    one = lambda example: step.value_and_grad(state, example[None])
    (losses, _), grads = jax.vmap(one)(batch)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state._replace(params=params, opt_state=opt_state), {"loss": losses.mean()}


def test_gradients_of_single_examples_are_clipped():
    clipped = optax.contrib.differentially_private_aggregate(0.5, 0.0, key=1)
    dpsgd = lambda rate: optax.chain(clipped, optax.sgd(rate))
    task = ody.pure_task(jnp.zeros(2), lambda w, x: 10 * (w - x).sum(), update=private)
    result = fit(task, dpsgd, learning_rate=1.0, epochs=1)
    # Each example's gradient is (10, 10), clipped to a norm of 0.5; 4 steps.
    np.testing.assert_allclose(result.model, jnp.full(2, -4 * 0.5 / np.sqrt(2)), rtol=1e-5)


def test_a_target_network_follows_every_few_steps():
    def loss(p, batch):
        return jnp.mean((batch @ p["online"]["w"] - 0.9 * (batch @ p["target"]["w"]) - 1) ** 2)

    def update(state, batch, step, optimizer):
        state, outputs = train_step(state, batch, step, optimizer)
        held = state.model_state.untrained
        args = (state.params["online"], held["target"], step.step + 1, 3)
        held = {**held, "target": optax.periodic_update(*args)}
        return state._replace(model_state=state.model_state._replace(untrained=held)), outputs

    params = {"online": {"w": jnp.zeros(2)}, "target": {"w": jnp.zeros(2)}}
    task = ody.pure_task(params, loss, trainable=["^online/"], update=update)
    result = fit(task, optax.sgd, learning_rate=0.1, epochs=1)  # 4 steps, the third one copies
    w = target = jnp.zeros(2)
    for number in range(4):
        batch = jnp.asarray(X[4 * number :][:4])
        w = w - 0.1 * jax.grad(lambda w, t, b: loss({"online": {"w": w}, "target": {"w": t}}, b))(
            w, target, batch
        )
        target = w if number == 2 else target
    np.testing.assert_allclose(result.model["online"]["w"], w, rtol=1e-5)
    np.testing.assert_allclose(result.model["target"]["w"], target, rtol=1e-5)


def test_sharpness_aware_by_hand():
    def update(state, batch, step, optimizer):
        _, grads = step.value_and_grad(state, batch)
        norm = optax.tree.norm(grads)
        worst = jax.tree.map(lambda p, g: p + 0.05 * g / norm, state.params, grads)
        (loss, _), grads = step.value_and_grad(state._replace(params=worst), batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, opt_state=opt_state), {"loss": loss}

    loss = lambda w, batch: jnp.sum((w - batch.mean(0)) ** 2)
    result = fit(ody.pure_task(jnp.ones(2), loss, update=update), optax.sgd(0.1), epochs=1)
    w = jnp.ones(2)
    for number in range(4):
        grad = jax.grad(loss)(w, X[4 * number :][:4])
        w = w - 0.1 * jax.grad(loss)(w + 0.05 * grad / jnp.linalg.norm(grad), X[4 * number :][:4])
    np.testing.assert_allclose(result.model, w, rtol=1e-5)


def test_averages_accumulation_and_data_from_the_host_go_with_ones_own_step():
    task = ody.pure_task(jnp.ones(2), lambda w, x: jnp.sum((w - x.mean(0)) ** 2), update=by_hand)
    how = {"accumulate_steps": 2, "average": ody.equal_average(0), "clip_norm": 10.0}
    found = [
        fit(given, optax.sgd, data, learning_rate=0.1, **how).model
        for given in (task, task._replace(update=None))
        for data in (DATA, ody.HostDataset(X, 4))
    ]
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, rtol=1e-5)


# What is refused.


def changed(**fields):
    def update(state, batch, step, optimizer):
        return state._replace(**{k: f(getattr(state, k)) for k, f in fields.items()}), {"loss": 1.0}

    return update


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda *args: None, r"must return \(state, outputs\).*got NoneType"),
        (lambda state, *_: (state, {}), "a dict with 'loss'"),
        (changed(params=lambda p: p.sum()), r"state's params: it makes  float32\[\] of float32"),
        (changed(opt_state=lambda s: (s, s)), "form of the state's opt_state"),
        (changed(model_state=lambda s: jnp.ones(2)), "the state's model_state: it adds"),
    ],
)
def test_what_a_step_returns_is_checked(update, message):
    task = ody.pure_task(jnp.ones(2), lambda w, x: w.sum(), update=update)
    with pytest.raises((TypeError, ValueError), match=message):
        fit(task, optax.adam(0.1))


def test_what_does_not_go_with_ones_own_step_is_refused():
    loss = lambda w, x: w.sum()
    with pytest.raises(TypeError, match="update must be a function, got a int"):
        ody.pure_task(jnp.ones(2), loss, update=3)
    task = ody.pure_task(jnp.ones(2), loss, update=plain)
    with pytest.raises(ValueError, match="loss_scale= does not go with a step of your own"):
        fit(task, optax.sgd(0.1), loss_scale=ody.loss_scale())
    own = task._replace(
        loss=lambda params, state, batch, key: (params.sum(), (state, {})),
        update=lambda state, batch, step, optimizer: step.value_and_grad(state, batch, loss),
    )
    with pytest.raises(TypeError, match="the task's loss is your own, a function"):
        fit(own, optax.sgd(0.1))
    part = lambda state, batch, step, optimizer: step.value_and_grad(state, batch, part="x")
    with pytest.raises(ValueError, match=r"part='x' is none of the parameters': \['d', 'g'\]"):
        fit(ody.pure_task(PARTS, bowl, update=part), optax.sgd(0.1))


def test_another_step_is_refused_on_resume(tmp_path):
    task = ody.pure_task(jnp.ones(2), lambda w, x: jnp.sum((w - x.mean(0)) ** 2), update=by_hand)
    fit(task, optax.sgd(0.1), directory=tmp_path)

    def other(state, batch, step, optimizer):
        return by_hand(state, batch * 2, step, optimizer)

    with pytest.raises(ValueError, match="begun with another train step"):
        fit(task._replace(update=other), optax.sgd(0.1), directory=tmp_path)


def test_half_precision_goes_with_another_loss():
    seen = []

    def half(params, batch):
        seen.append(params["d"]["w"].dtype.name)
        return bowl(params, batch)

    def update(state, batch, step, optimizer):
        (loss, _), grads = step.value_and_grad(state, batch, half, part="d")
        assert grads["w"].dtype == jnp.float32
        return state, {"loss": loss}

    fit(ody.mixed_precision(ody.pure_task(PARTS, bowl, update=update)), optax.sgd(0.1))
    assert set(seen) == {"bfloat16"}
