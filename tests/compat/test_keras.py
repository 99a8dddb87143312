"""Keras' schedules and callbacks: the curves of the real ones, functions, refusals."""

import numpy as np
import pytest

from odyssey_jax.compat import keras
from tests.compat.compare import check, run, values


@pytest.mark.parametrize("curve", run("keras."), ids=lambda curve: curve["id"])
def test_the_peer_and_ours_agree(curve):
    check(curve)


def test_keras_function_of_the_epoch_and_the_rate():
    two = keras.LearningRateScheduler(base_lr=1.0, schedule=lambda epoch, lr: lr * 0.5)
    np.testing.assert_allclose(values(two, range(5)), 0.5 ** np.arange(1, 6))
    one = keras.LearningRateScheduler(base_lr=1.0, schedule=lambda epoch: 0.1 * epoch)
    np.testing.assert_allclose(values(one, range(5)), 0.1 * np.arange(5), rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: keras.CosineDecay(0.1, decay_steps=0), "got decay_steps = 0"),
        (lambda: keras.PiecewiseConstantDecay([1, 2], [0.1, 0.2]), "boundaries"),
        (lambda: keras.PiecewiseConstantDecay([], [0.1]), "at least one step"),
        (lambda: keras.ReduceLROnPlateau(0.1, factor=1.0), "factor"),
        (lambda: keras.ReduceLROnPlateau(0.1, monitor="accuracy"), "got monitor = 'accuracy'"),
    ],
)
def test_what_the_peer_refuses_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
