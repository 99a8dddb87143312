"""`fit` takes a source of the user's own: it knows data by the protocol alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import odyssey_jax as ody
from tests import examples
from tests.examples import assert_same


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drawn:
    """Batches drawn on the device, without an array of data: others in each pass."""

    scale: jax.Array
    full_batches: int = dataclasses.field(default=5, metadata={"static": True})
    batch_size: int = dataclasses.field(default=8, metadata={"static": True})
    remainder = 0

    @property
    def steps_per_pass(self):
        return self.full_batches

    def signature(self):
        return {"drawn": self.full_batches, "batch_size": self.batch_size}

    def order(self, key, index):
        return jax.random.key_data(jax.random.fold_in(key, index))

    def batch(self, order, index):
        key = jax.random.key(0) if order is None else jax.random.wrap_key_data(order)
        x = self.scale * jax.random.normal(jax.random.fold_in(key, index), (self.batch_size, 4))
        return {"x": x, "y": jnp.argmax(x[:, :3], axis=1)}

    def last_batch(self, order):
        raise AssertionError("there is no smaller batch")


def run(directory, epochs):
    return ody.fit(
        examples.linear_task(), optax.sgd(0.5), Drawn(jnp.float32(2.0)), Drawn(jnp.float32(1.0)),
        epochs=epochs, directory=directory, writers=[],
        callbacks=ody.early_stopping("valid/loss", 99),
    )  # fmt: skip


def test_it_trains_stops_and_resumes_as_any(tmp_path):
    ody.testing.check_source(Drawn(jnp.float32(2.0)))
    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "cut", 2)
    assert_same(run(tmp_path / "cut", 6).carry, whole.carry)
    losses = whole.history["valid/loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert np.all(np.isfinite(losses))
