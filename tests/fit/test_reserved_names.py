"""No name takes the place of the clock in the history and the logs."""

import jax.numpy as jnp
import optax
import pytest

import odyssey_jax as ody

DATA = ody.ArrayDataset(jnp.ones((8, 2)), batch_size=4)


def task():
    loss = lambda p, b: (((p - b) ** 2).mean(), {"step": jnp.float32(-7), "epoch": jnp.float32(1)})
    return ody.pure_task(jnp.zeros(2), loss)


@pytest.mark.parametrize("name", ["step", "epoch"])
def test_a_sampled_output_is_refused(name):
    with pytest.raises(ValueError, match=f"log_outputs must not have the name '{name}'.*clock"):
        ody.fit(
            task(), optax.sgd(0.1), DATA, epochs=2, writers=[],
            log_every_n_steps=1, log_outputs=[name, "loss"],
        )  # fmt: skip


class Reports:
    points = (ody.Point.EPOCH_END,)

    def __init__(self, name):
        self.name = name

    def init(self, event):
        return jnp.zeros(())

    def update(self, state, event):
        return state, ody.Signal.none()

    def report(self, state):
        return {self.name: state}


@pytest.mark.parametrize("name", ["step", "epoch"])
def test_a_callbacks_column_is_refused(name):
    with pytest.raises(ValueError, match=f"a callback's report must not have the name '{name}'"):
        ody.fit(task(), optax.sgd(0.1), DATA, epochs=2, writers=[], callbacks=Reports(name))


@pytest.mark.parametrize("name", ["valid/step", "my_step"])
def test_other_names_are_columns(name):
    metric = name.removeprefix("valid/")
    result = ody.fit(
        task(), optax.sgd(0.1), DATA, DATA, epochs=2, writers=[], metrics={metric: ody.Mean("step")}
    )
    assert result.history[f"valid/{metric}"].tolist() == [-7, -7]
    assert result.history["step"].tolist() == [2, 4]
