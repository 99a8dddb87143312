"""Every optimizer of Optax: it trains and resumes to the bit, or is refused with what to do."""

import inspect
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optax import contrib

import odyssey_jax as ody
from odyssey_jax.train import Inputs, make_loop, run_compiled
from tests import examples

X = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
BATCHES = [{"x": x, "y": x[:, :3]} for x in X.reshape(5, 2, 4)]
DATA = ody.ArrayDataset({"x": X, "y": X[:, :3]}, 2)  # 5 batches
PARAMS = {"w": jnp.full((4, 3), 0.5), "b": jnp.zeros(3)}


def mse(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


TASK = ody.pure_task(PARAMS, mse)


def fit(optimizer, **how):
    return ody.fit(TASK, optimizer, DATA, **{"epochs": 1, "writers": [], **how})


def injected(make):
    return lambda rate: optax.inject_hyperparams(make)(learning_rate=rate)


PERTURBS = optax.chain(contrib.normalize(), optax.sgd(0.05))
# By name: those that take more than a rate, or a number and no schedule.
OWN = {
    "noisy_sgd": lambda rate: optax.noisy_sgd(rate, key=1),
    "optimistic_adam": injected(optax.optimistic_adam),
    "rprop": injected(optax.rprop),
    "sm3": injected(optax.sm3),
    "scale_by_rprop": injected(optax.scale_by_rprop),
    "schedule_free": lambda rate: contrib.schedule_free(optax.adam(rate), rate),
}
# Of those whose argument is no `learning_rate`.
MORE = {
    "polyak_sgd": lambda _: optax.polyak_sgd(),
    "sam": lambda rate: contrib.sam(optax.adam(rate), PERTURBS, opaque_mode=True),
    "sam, in turns": lambda rate: contrib.sam(optax.adam(rate), PERTURBS, sync_period=3),
    "lookahead": lambda rate: optax.chain(
        optax.clip_by_global_norm(1.0), optax.lookahead(optax.adam(rate), 3, 0.5)
    ),
    "mechanize": lambda rate: contrib.mechanize(optax.adam(rate)),
    "reduce_on_plateau": lambda rate: optax.chain(optax.adam(rate), contrib.reduce_on_plateau()),
    "backtracking": lambda _: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)
    ),
    "zoom": lambda _: optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15)),
    "MultiSteps": lambda rate: optax.MultiSteps(optax.adam(rate), 2),
    "apply_if_finite": lambda rate: optax.apply_if_finite(optax.adam(rate), 3),
    "nnx.Optimizer": nnx.Optimizer(
        nnx.Linear(4, 3, rngs=nnx.Rngs(0)), optax.adam(0.1), wrt=nnx.Param
    ),
}
REFUSED = {"dpsgd": contrib.dpsgd}  # Optax's own has come to warn of itself
FOUND = {
    name: function
    for room in (optax, contrib)
    for name, function in inspect.getmembers(room, inspect.isfunction)
    if not name.startswith("_") and "learning_rate" in inspect.signature(function).parameters
}
OPTIMIZERS = {**FOUND, **OWN, **MORE}
for _name in REFUSED:
    del OPTIMIZERS[_name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.optimistic_adam. is deprecated")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_and_resumes_to_the_bit(name):
    loop = make_loop(TASK, OPTIMIZERS[name], capacity=4)
    inputs = Inputs(DATA, None, ody.constant(0.01))
    begin = lambda: loop.init(jax.random.key(0), PARAMS, None, inputs)
    whole = run_compiled(loop, begin(), inputs, 10)
    half = run_compiled(loop, begin(), inputs, 5)
    with tempfile.TemporaryDirectory() as folder, ody.Store(folder) as store:
        store.save(5, half, {})
        store.wait()
        resumed = store.restore(begin()).tree
    resumed = run_compiled(loop, resumed, inputs, 10)
    examples.assert_same(resumed, whole)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), whole.state.params, PARAMS)
    assert any(jax.tree.leaves(moved)), "it moves no parameter"
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(whole.state.params))


def test_the_table_has_the_optimizers_of_optax():
    assert {"adam", "lbfgs", "muon", "prodigy", "schedule_free_sgd", "sophia"} <= FOUND.keys()
    assert len(FOUND) >= 50
    assert OWN.keys() <= FOUND.keys()


@pytest.mark.parametrize("name", ["rprop", "sm3"])
def test_one_that_takes_a_number_is_told_how(name):
    with pytest.raises((TypeError, ValueError), match="takes a number.*optax.inject_hyperparams"):
        fit(FOUND[name], learning_rate=0.1)
    result = fit(injected(FOUND[name]), learning_rate=ody.linear(0.1, 0.0, 5))
    assert result.history["learning_rate"][0] == pytest.approx(0.1 * 1 / 5)


def test_one_that_takes_more_is_told():
    with pytest.raises(TypeError, match="dpsgd.* missing 3 required .*'l2_norm_clip'"):
        fit(REFUSED["dpsgd"], learning_rate=0.1)


def test_multisteps_objects_are_taken_and_their_rate_is_that_of_their_updates():
    rate = ody.linear(0.4, 0.0, 4)
    made = fit(lambda rate: optax.MultiSteps(optax.sgd(rate), 2), learning_rate=rate, epochs=2)
    plain = fit(optax.sgd, learning_rate=rate, epochs=2, accumulate_steps=2)
    for name, x in made.model.items():
        np.testing.assert_allclose(x, plain.model[name], rtol=1e-5, atol=1e-7)
    # Of the update before last at the end of 5 steps, the last one at that of 10.
    np.testing.assert_allclose(made.history["learning_rate"], [0.3, 0.0], atol=1e-7)
    assert fit(optax.MultiSteps(optax.sgd(0.1), 2)).steps == 5
    with pytest.raises(ValueError, match="has no effect on an optimizer that is made"):
        fit(optax.MultiSteps(optax.sgd(0.1), 2), learning_rate=0.1)


def test_the_transformation_in_an_nnx_optimizer_is_taken():
    model = examples.NnxModel(nnx.Rngs(0))
    task = ody.nnx_task(model, examples.nnx_loss)
    given = (nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param), optax.adam(0.01))
    runs = [ody.fit(task, x, examples.train_data(), epochs=1, writers=[]) for x in given]
    examples.assert_same(runs[0].state.params, runs[1].state.params)


def by_hand(optimizer, evaluated, steps):
    """Train as Optax documents it, and return what is evaluated after some steps."""
    ahead = evaluated == "slow"
    params = optax.LookaheadParams.init_synced(PARAMS) if ahead else PARAMS
    state = optimizer.init(params)
    for step in range(steps):
        grads = jax.grad(mse)(params.fast if ahead else params, BATCHES[step % 5])
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    if ahead:
        return params.slow
    return state.cache if int(state.steps_since_sync) else params


TAKING_TWO = {
    "slow": lambda rate: optax.lookahead(optax.sgd(rate), 3, 0.5),
    "outer": lambda rate: contrib.sam(optax.sgd(rate), PERTURBS, sync_period=3),
}


@pytest.mark.parametrize("steps", [5, 6, 7])
@pytest.mark.parametrize("evaluated", TAKING_TWO)
def test_two_sets_of_parameters_are_those_of_optax_by_hand(evaluated, steps):
    """What is validated and returned is what is to be evaluated, in the middle of a turn too."""
    make = TAKING_TWO[evaluated]
    rate = ody.linear(0.2, 0.02, 4)
    result = fit(
        make, learning_rate=rate, epochs=None, steps=steps, valid=DATA,
        callbacks=ody.track_best("valid/loss"),
    )  # fmt: skip
    want = by_hand(make(rate), evaluated, steps)
    for name, x in result.model.items():
        np.testing.assert_allclose(x, want[name], rtol=1e-5, atol=1e-6)
    loss = np.mean([float(mse(want, batch)) for batch in BATCHES])
    assert float(result.metrics["valid/loss"]) == pytest.approx(loss, rel=1e-5)
    examples.assert_same(result.state.for_evaluation.params, result.model)
    # Its outer optimizer makes an update of each three steps.
    last = steps - 1 if evaluated == "slow" else max(steps // 3 - 1, 0)
    assert result.history["learning_rate"][-1] == pytest.approx(float(rate(last)), rel=1e-5)
