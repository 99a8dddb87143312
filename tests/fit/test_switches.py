"""JAX's debugging switches: a whole run passes under each; and float64 is kept where it is on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples

SWITCHES = {
    "debug_infs": lambda: jax.debug_infs(True),
    "debug_nans": lambda: jax.debug_nans(True),
    "transfer_guard": lambda: jax.transfer_guard("disallow"),
    "check_tracer_leaks": lambda: jax.check_tracer_leaks(True),
    "debug_key_reuse": lambda: jax.debug_key_reuse(True),
    "disable_jit": lambda: jax.disable_jit(),
}


TASK = examples.linear_task()  # to make its numbers is the user's transfer


def run(epochs, directory, *more):
    return ody.fit(
        TASK,
        lambda rate: optax.chain(optax.adam(rate), ody.scale_by_callback()),
        ody.ArrayDataset({k: v[:8] for k, v in examples.arrays().items()}, 4, shuffle=True),
        ody.ArrayDataset({k: v[:4] for k, v in examples.arrays().items()}, 4),
        epochs=epochs,
        learning_rate=ody.warmup_cosine(0.1, 2, 6),
        metrics={"accuracy": ody.Accuracy()},
        callbacks=ody.chain(
            ody.early_stopping("valid/loss", 3, smoothing=0.1, restore_best=True),
            *more,
            ody.checkpoint(ody.every(epochs=1), keep_best=3, monitor="valid/accuracy"),
        ),
        average=ody.exponential_average(0.9),
        clip_norm=1.0,
        log_every_n_steps=1,
        directory=directory,
    )


def with_bounds():
    """Callbacks whose states hold a best value before there is one."""
    return (
        ody.roll_back(divergence_factor=2.0),
        ody.adapt_rate("valid/loss", ody.reduce_on_plateau(patience=1, smoothing=0.5)),
        ody.adapt_rate("train/loss", ody.schedules.greedy(0.1, 2.0)),
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] if x == "disable_jit" else []) for x in SWITCHES],
)
def test_a_run_passes_under(name, tmp_path):
    with SWITCHES[name]():
        more = with_bounds() if name in ("debug_infs", "transfer_guard") else ()
        part = run(1, tmp_path, *more)
        result = run(2, tmp_path, *more)
        measured = ody.evaluate(TASK, result.state, examples.valid_data())
    assert (part.epochs, result.epochs) == (1, 2)
    assert np.isfinite(measured["loss"])


def test_the_guard_still_watches_a_hook_of_the_user(tmp_path):
    def move(view):
        jnp.asarray(np.ones(3)) + 1

    data = examples.train_data()
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-dev"):
        ody.fit(TASK, optax.sgd(0.1), data, epochs=1, writers=[], hooks=[ody.hook(move)])


FALL = 1e-11  # an epoch, of a loss of 1: float32 sees none of it


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_a_loss_in_float64_is_judged_kept_and_ranked_in_it(smoothing, tmp_path):
    stopping = ody.early_stopping("valid/loss", 2, smoothing=smoothing, restore_best=True)
    best = ody.checkpoint(keep_last=None, keep_best=2, monitor="valid/loss")
    callbacks = ody.chain(stopping, ody.track_best("valid/loss"), ody.callbacks.log(), best)
    with jax.enable_x64(True):
        loss_fn = lambda w, batch: 1 - FALL * w * batch.mean()
        task = ody.pure_task(jnp.zeros((), jnp.float64), loss_fn)
        data = ody.ArrayDataset(np.ones(4), batch_size=4)

        def run(epochs):
            return ody.fit(
                task,
                optax.sgd(1 / FALL),
                data,
                data,
                epochs=epochs,
                callbacks=callbacks,
                log_every_n_steps=1,
                writers=[],
                directory=tmp_path,
            )

        run(5)
        result = run(8)
    assert (result.epochs, result.best_epoch) == (8, 7)
    expected = 1 - FALL * np.arange(1.0, 9)
    np.testing.assert_allclose(result.history["valid/loss"], expected, rtol=1e-15)
    np.testing.assert_allclose(result.samples["loss"], expected + FALL, rtol=1e-15)
    assert result.metrics["valid/loss"] == result.history["valid/loss"][-1]
    assert float(result.bests["valid/loss"].value) < 1 - 6 * FALL
    reader = ody.store.Reader(tmp_path / "checkpoints", monitor="valid/loss", mode="min")
    assert reader.best() == 8


def test_a_metric_that_rises_by_a_hair_is_not_the_best_in_float64():
    stopping = ody.early_stopping("loss", patience=2)
    event = lambda epoch, loss: ody.Event({"loss": loss}, ody.Clock(epoch, epoch))
    with jax.enable_x64(True):
        state = stopping.init(event(0, jnp.float64(0)))
        for epoch, loss in enumerate([1.0, 1.0 + FALL, 1.0 - FALL, 1.0]):
            state, _ = stopping.update(state, event(epoch, jnp.float64(loss)))
        assert (int(state.best.epoch), int(state.wait)) == (2, 1)
        assert float(state.best.value) == 1.0 - FALL
