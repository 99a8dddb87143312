"""What a loss function asks for by name: whether it trains, a key, the step and the progress."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples

DATA = ody.ArrayDataset(examples.arrays(), 8)


def noisy(fn):
    """The task's loss with noise that is 100 apart in training."""

    def loss(model, batch, *, key, train):
        value, outputs = fn(model, batch)
        noise = jax.random.uniform(key)
        return value * 0 + noise + 100 * train, {**outputs, "noise": noise}

    return loss


LINEAR = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}


def linen_loss(apply, batch):
    return examples.cross_entropy(apply(batch["x"]), batch["y"])


MODEL = examples.NnxModel(examples.nnx.Rngs(0))
MAKE = {
    "pure": lambda wrap: ody.pure_task(LINEAR, wrap(examples.linear_loss)),
    "nnx": lambda wrap: ody.nnx_task(MODEL, wrap(examples.nnx_loss)),
    "linen": lambda wrap: ody.linen_task(
        examples.linen.Dense(3), wrap(linen_loss), jnp.zeros((1, 4))
    ),
}
TASKS = {kind: lambda make=make: make(noisy) for kind, make in MAKE.items()}


@pytest.mark.parametrize("kind", TASKS)
def test_a_loss_is_told_whether_it_trains_and_a_key(kind):
    how = {"log_every_n_steps": 1, "log_outputs": ["noise"], "writers": []}
    noise = {"noise": ody.Mean("noise"), "least": ody.Mean("noise")}
    run = ody.fit(TASKS[kind](), optax.sgd(0.0), DATA, DATA, epochs=2, metrics=noise, **how)
    drawn = np.asarray(run.samples["noise"])
    assert len(set(drawn.tolist())) == 10  # each step its own
    assert (run.history["train/loss"] > 100).all()
    assert (run.history["valid/loss"] < 1).all()
    assert run.history["valid/noise"][0] == run.history["valid/noise"][1]  # the same every epoch
    again = ody.fit(TASKS[kind](), optax.sgd(0.0), DATA, DATA, epochs=2, metrics=noise, **how)
    np.testing.assert_array_equal(again.samples["noise"], drawn)


def test_validation_draws_anew_for_each_batch_and_each_run():
    task, noise = TASKS["pure"](), {"noise": ody.Mean("noise")}
    runs = [
        ody.fit(
            task, optax.sgd(0.0), DATA, {"a": DATA, "b": DATA}, epochs=1, metrics=noise, seed=seed,
            writers=[],
        ).metrics
        for seed in range(2)
    ]  # fmt: skip
    assert runs[0]["valid/a/noise"] == runs[0]["valid/b/noise"] != runs[1]["valid/a/noise"]
    key = lambda index: jax.random.key(index)
    seen = [float(task.evaluate(LINEAR, None, examples.arrays(), key(i))["noise"]) for i in (0, 1)]
    assert seen[0] != seen[1]


@pytest.mark.parametrize("kind", ["pure", "nnx", "linen"])
def test_what_is_not_known_is_refused_with_the_list(kind):
    make = {
        "pure": lambda fn: ody.pure_task(LINEAR, fn),
        "nnx": lambda fn: ody.nnx_task(examples.NnxModel(examples.nnx.Rngs(0)), fn),
        "linen": lambda fn: ody.linen_task(examples.linen.Dense(3), fn, jnp.zeros((1, 4))),
    }[kind]
    with pytest.raises(
        TypeError, match="loss_fn asks for rng, epoch, .* named train, key, step, progress"
    ):
        make(lambda model, batch, rng, *, epoch, train, more=1: 0.0)
    make(lambda model, batch, *args, more=1, **kwargs: 0.0)


def timed(fn):
    """The task's loss, which is told how far the run is; the value is 1 + step."""

    def loss(model, batch, step, *, progress):
        value, outputs = fn(model, batch)
        assert step.dtype == jnp.int32
        assert progress.dtype == jnp.float32
        assert step.shape == progress.shape == ()
        return value * 0 + 1 + step, {**outputs, "at": step * 1.0, "progress": progress}

    return loss


HOW = {
    "metrics": {name: ody.Mean(name) for name in ("at", "progress")},
    "log_every_n_steps": 1,
    "log_outputs": ["at", "progress"],
    "writers": [],
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("where", ["device", "host"])
def test_a_loss_is_told_its_step_and_progress(kind, where):
    task = MAKE[kind](timed)
    data = DATA if where == "device" else ody.HostDataset(examples.arrays(), 8)
    for given in (task, ody.mixed_precision(task)):
        run = ody.fit(given, optax.sgd(0.0), data, data, epochs=2, **HOW)
        np.testing.assert_array_equal(run.samples["at"], np.arange(10))
        np.testing.assert_allclose(run.samples["progress"], np.arange(10) / 10, rtol=1e-6)
        # In validation they are those of the state.
        np.testing.assert_array_equal(run.history["valid/at"], [5, 10])
        np.testing.assert_allclose(run.history["valid/progress"], [0.5, 1.0], rtol=1e-6)
        assert run.history["valid/progress"][-1] < 1


def test_the_length_of_a_run_is_data():
    loop = examples.make_loop(MAKE["pure"](timed), optax.sgd(0.0), capacity=8)
    run = jax.jit(loop.run)
    for total in (5, 50):
        inputs = ody.train.Inputs(DATA, DATA, None, jnp.int32(total))
        carry = loop.init(jax.random.key(0), LINEAR, None, inputs)
        run(carry, inputs, 5)
    assert run._cache_size() == 1
    with pytest.raises(ValueError, match="asks for 'progress', which is not known.*total_steps="):
        loop.init(jax.random.key(0), LINEAR, None, ody.train.Inputs(DATA))


def test_evaluate_is_told_what_it_does_not_know():
    task, state = MAKE["pure"](timed), ody.TrainState(LINEAR)
    with pytest.raises(ValueError, match="asks for 'step', which is not known.*evaluate by step="):
        ody.evaluate(task, state, DATA)
    for data in (DATA, ody.HostDataset(examples.arrays(), 8)):
        found = ody.evaluate(task, state, data, HOW["metrics"], step=3, total_steps=4)
        assert (float(found["loss"]), float(found["progress"])) == (4.0, 0.75)


def test_a_run_of_another_length_is_refused_where_the_loss_asks_for_progress(tmp_path):
    fit = lambda task, epochs, **more: ody.fit(
        task, optax.sgd(0.0), DATA, epochs=epochs, directory=tmp_path / str(id(task)), writers=[],
        **more,
    )  # fmt: skip
    task = MAKE["pure"](timed)
    fit(task, 1)
    with pytest.raises(ValueError, match="begun with another number of steps"):
        fit(task, 2)
    assert fit(task, 2, run_change="accept").epochs == 2
    plain = ody.pure_task(LINEAR, examples.linear_loss)
    fit(plain, 1)
    assert fit(plain, 2).epochs == 2


def test_a_task_checks_with_what_it_asks_for():
    ody.testing.check_task(MAKE["pure"](timed), examples.arrays())


def test_a_plain_task_is_told_nothing():
    model = examples.nnx.Linear(4, 3, rngs=examples.nnx.Rngs(0))
    task = ody.nnx_task(model, examples.nnx_loss)
    assert task.loss.asks_for == task.evaluate.asks_for == ()
    assert MAKE["nnx"](lambda fn: fn).evaluate.asks_for == ("key",)  # it drops units
