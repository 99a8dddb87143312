"""What a loss function asks for by name: whether it trains, and a key."""

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
TASKS = {
    "pure": lambda: ody.pure_task(LINEAR, noisy(examples.linear_loss)),
    "nnx": lambda: ody.nnx_task(examples.NnxModel(examples.nnx.Rngs(0)), noisy(examples.nnx_loss)),
    "linen": lambda: ody.linen_task(
        examples.linen.Dense(3),
        noisy(lambda apply, batch: examples.cross_entropy(apply(batch["x"]), batch["y"])),
        jnp.zeros((1, 4)),
    ),
}


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


def test_validation_draws_anew_for_each_batch():
    seen = []
    task = TASKS["pure"]()
    for index in range(2):
        key = jax.random.key(index)
        seen.append(float(task.evaluate(LINEAR, None, examples.arrays(), key)["noise"]))
    assert seen[0] != seen[1]


@pytest.mark.parametrize("kind", ["pure", "nnx", "linen"])
def test_what_is_not_known_is_refused_with_the_list(kind):
    make = {
        "pure": lambda fn: ody.pure_task(LINEAR, fn),
        "nnx": lambda fn: ody.nnx_task(examples.NnxModel(examples.nnx.Rngs(0)), fn),
        "linen": lambda fn: ody.linen_task(examples.linen.Dense(3), fn, jnp.zeros((1, 4))),
    }[kind]
    with pytest.raises(TypeError, match="loss_fn asks for rng, epoch, .* named train and key"):
        make(lambda model, batch, rng, *, epoch, train, more=1: 0.0)
    make(lambda model, batch, *args, more=1, **kwargs: 0.0)
