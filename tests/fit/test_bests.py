"""The best of several metrics in one run, and which of them the result is."""

import functools

import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples
from tests.examples import assert_same

BY_LOSS = ody.track_best("valid/loss")
BY_ACCURACY = ody.track_best("valid/accuracy", mode="max")
LOSS, ACCURACY = 3, 2  # the best epoch of each


def fit(*callbacks, epochs=8, **kwargs):
    return ody.fit(
        examples.linear_task(), optax.adamw, examples.train_data(), examples.valid_data(),
        epochs=epochs, learning_rate=0.3, metrics={"accuracy": ody.Accuracy()}, writers=[],
        callbacks=ody.chain(*callbacks), **kwargs,
    )  # fmt: skip


@functools.cache
def params_after(epoch):
    return fit(epochs=epoch + 1).state.params


def test_each_metric_has_its_best_with_its_parameters():
    stopping = ody.early_stopping("valid/loss", 9)
    result = fit(stopping, ody.all_of(BY_ACCURACY, ody.callbacks.on(ody.after(epochs=1), BY_LOSS)))
    history = result.history
    assert np.argmin(history["valid/loss"]) == LOSS
    assert np.argmax(history["valid/accuracy"]) == ACCURACY
    assert {name: int(best.epoch) for name, best in result.bests.items()} == {
        "valid/loss": LOSS,
        "valid/accuracy": ACCURACY,
    }
    # Not the record of early_stopping, which keeps no copy.
    for best in result.bests.values():
        assert_same(best.snapshot[0], params_after(int(best.epoch)))
    assert result.best_epoch == LOSS, "the first's"


@pytest.mark.parametrize("restored", ["valid/loss", "valid/accuracy"])
def test_the_best_that_is_restored_is_the_results(restored):
    mode, epoch = ("min", LOSS) if restored == "valid/loss" else ("max", ACCURACY)
    stopping = ody.early_stopping(restored, 9, mode=mode, restore_best=True)
    result = fit(BY_LOSS, BY_ACCURACY, stopping)
    assert_same(result.state.params, params_after(epoch))
    assert_same(result.best.snapshot[0], result.state.params)
    assert (result.best_epoch, len(result.bests)) == (epoch, 2)


def test_a_resume_and_the_best_checkpoint_of_another_metric_change_none(tmp_path):
    saving = ody.checkpoint(keep_best=1, monitor="valid/accuracy", mode="max")
    whole, _, resumed = (
        fit(BY_LOSS, BY_ACCURACY, saving, epochs=epochs, directory=tmp_path / folder)
        for folder, epochs in (("whole", 8), ("parts", 3), ("parts", 8))
    )
    assert_same(resumed.bests, whole.bests)
    with ody.Store(tmp_path / "parts" / "checkpoints") as store:
        assert store.steps() == (5 * (ACCURACY + 1), 40)
    assert fit(BY_LOSS, BY_ACCURACY, saving, directory=tmp_path / "parts").best_epoch == LOSS


def test_what_nobody_tracks_is_not_there():
    assert (fit().best, fit().best_epoch, fit().bests) == (None, None, {})


def test_two_that_restore_are_refused():
    restoring = [ody.early_stopping(name, 3, restore_best=True) for name in ("a_loss", "b_loss")]
    message = "one callback may restore the best.*'a_loss'.*'b_loss'.*see FitResult.bests"
    for wrap in (ody.chain, ody.all_of, lambda x: ody.callbacks.on(ody.every(epochs=2), x)):
        with pytest.raises(ValueError, match=message):
            ody.chain(restoring[0], wrap(restoring[1]))
    with pytest.raises(ValueError, match=message):
        fit(ody.all_of(*restoring))
