"""Room for rows and samples: as much as is used, whatever `epochs` says."""

import jax.numpy as jnp
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.fit import _plan
from odyssey_jax.train import _programs
from tests.examples import assert_same

TASK = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
DATA = ody.ArrayDataset(jnp.ones(12), batch_size=4)
SGD = optax.sgd(0.001)


def run(epochs, **how):
    how = {"log_every_n_steps": 1, "writers": [], **how}
    return ody.fit(TASK, SGD, DATA, DATA, epochs=epochs, **how)


def room(result):
    return len(result.carry.history.epoch), len(result.carry.samples["loss"])


def test_a_bound_that_is_never_reached_costs_nothing(tmp_path):
    callbacks = ody.early_stopping("valid/loss", patience=2, mode="max")
    result = run(700_000_000, callbacks=callbacks, directory=tmp_path)
    assert (result.epochs, result.reason) == (3, "no improvement for 2 epochs")
    assert room(result) == (2**16, 2**16)


@pytest.fixture(scope="module")
def whole():
    return run(400, callbacks=ody.callbacks.log())


def test_room_grows_as_it_is_used_and_changes_nothing(whole, monkeypatch, tmp_path):
    monkeypatch.setattr(_plan, "_LEAST_CAPACITY", 64)
    monkeypatch.setattr(_plan, "_FIRST_ROOM", 64)
    monkeypatch.setattr(_programs, "_found", {})
    how = {"callbacks": ody.callbacks.log(), "directory": tmp_path}
    part = run(100, **how)
    assert room(part) == (128, 512)
    grown = run(400, **how)  # goes on with the room that was saved
    assert room(grown) == room(whole) == (512, 2048)
    assert_same(dict(grown.history), dict(whole.history))
    assert_same(dict(grown.samples), dict(whole.samples))
    assert_same(grown.carry, whole.carry)  # the callback's own table too
    assert len(_programs._found) < 12  # at most one for each doubling


def test_a_best_that_waits_is_saved_in_the_room_that_it_has(whole, monkeypatch, tmp_path):
    monkeypatch.setattr(_plan, "_FIRST_ROOM", 128)
    best = ody.checkpoint(keep_best=1, monitor="valid/loss", keep_last=3)
    result = run(400, callbacks=best, directory=tmp_path)
    assert_same(result.state, whole.state)
    with ody.Store(tmp_path / "checkpoints", keep_last=None) as store:
        for step in store.steps():
            recorded = store.metadata(step)["program"]
            shapes = {leaf.name: leaf.shape for leaf in store.leaves(step)}
            assert shapes["history/epoch"] == (recorded["capacity"],)
            assert shapes["samples/loss"] == (recorded["sample_capacity"],)
    assert run(401, directory=tmp_path).epochs == 401


def test_a_run_whose_room_was_enough_is_not_compiled_again(monkeypatch):
    monkeypatch.setattr(_programs, "_found", {})
    assert room(run(128, log_every_n_steps=3)) == (128, 256)
    assert len(_programs._found) == 1


def test_more_steps_than_the_clock_counts_are_refused_by_name():
    with pytest.raises(ValueError, match=r"epochs=1000000000 of 3 train steps are 3,000,000,000"):
        run(10**9)
