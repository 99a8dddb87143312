"""The range test: on a problem whose best rates are known, and on ones that go wrong."""

import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import odyssey_jax as ody
from tests import examples

_rate_range = sys.modules["odyssey_jax.fit._rate_range"]


def quadratic(curvature):
    return ody.pure_task(jnp.ones(8), lambda w, batch: curvature * (w**2).mean() * batch.mean())


DATA = ody.ArrayDataset(jnp.ones(8), batch_size=4)


@pytest.mark.parametrize("curvature", [1.0, 100.0])
def test_the_suggestion_goes_with_the_curvature(curvature):
    # Gradient descent converges up to 2 / h, h = 2 * curvature / 8, and the fastest at 1 / h.
    found = ody.rate_range_test(quadratic(curvature), optax.sgd, DATA, start=1e-6, end=1e3)
    largest = 2 / (2 * curvature / 8)
    assert largest / 100 < found.suggestion < largest
    assert found.losses[0] == pytest.approx(curvature)
    assert np.all(np.isfinite(found.smoothed))
    steps = np.diff(np.log(found.rates))
    np.testing.assert_allclose(steps, np.log(1e9) / 99, rtol=1e-4)


def test_it_is_cut_where_the_loss_diverges():
    found = ody.rate_range_test(quadratic(1.0), optax.sgd, DATA, start=1e-3, end=1e6)
    assert len(found.losses) < 100
    assert np.all(found.smoothed <= 4.0 * np.minimum.accumulate(found.smoothed))


def test_a_loss_that_never_falls_suggests_nothing():
    task = ody.pure_task(jnp.ones(2), lambda w, batch: jnp.exp(w).mean() * batch.mean())
    up = lambda rate: optax.chain(optax.sgd(rate), optax.scale(-1.0))
    found = ody.rate_range_test(task, up, DATA, end=1.0)
    assert found.suggestion is None
    assert found.reason == "the loss never falls: try a smaller start"


def losses_of(noise, seed, fall=0.5, steps=100):
    """Rates, and a loss that falls around 1e-2 and explodes past 0.5, with the noise of batches."""
    rates = np.geomspace(1e-7, 10.0, steps)
    clean = 1.0 - fall / (1.0 + np.exp(-3.0 * (np.log10(rates) + 2.0)))
    clean += 3.0 * np.maximum(rates - 0.5, 0.0)
    return rates, clean + noise * np.random.default_rng(seed).normal(size=steps)


def suggested(rates, losses):
    kept = _rate_range._before_it_diverges(losses, 0.9, 4.0)
    smoothed, spread = _rate_range._smoothed(losses[:kept], 0.9)
    return _rate_range._steepest(rates[:kept], smoothed, spread)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_noise_does_not_move_the_suggestion(noise):
    found = [suggested(*losses_of(noise, seed)) for seed in range(30)]
    assert all(reason is None for _, reason in found)
    assert all(1e-3 < rate < 5e-2 for rate, _ in found), found


def test_a_loss_that_is_noise_suggests_nothing_and_says_why():
    found = [suggested(*losses_of(0.1, seed, fall=0.0)) for seed in range(50)]
    assert sum(rate is not None for rate, _ in found) <= 2
    reasons = {reason.partition(":")[0] for _, reason in found if reason}
    assert reasons <= {"the loss has no clear slope", "the loss never falls"}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_classifier_with_dropout(dropout):
    class Net(nnx.Module):
        def __init__(self, *, rngs):
            self.hidden = nnx.Linear(2, 32, rngs=rngs)
            self.dropout = nnx.Dropout(dropout, rngs=rngs)
            self.head = nnx.Linear(32, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.dropout(nnx.relu(self.hidden(x))))

    def loss_fn(model, batch):
        logits = model(batch["x"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

    x = np.random.default_rng(0).normal(size=(1000, 2)).astype("f")
    y = (np.linalg.norm(x, axis=1) > 1.2).astype(np.int32)
    train = ody.ArrayDataset({"x": x, "y": y}, batch_size=50, shuffle=True)
    task = ody.nnx_task(Net(rngs=nnx.Rngs(0)), loss_fn)
    for seed in range(3):
        found = ody.rate_range_test(task, optax.adamw, train, seed=seed)
        assert 1e-3 < found.suggestion < 0.2, seed


def test_the_axis_follows_the_smoothed_curve():
    rates, smoothed = np.geomspace(1e-3, 1.0, 20), np.linspace(1.0, 0.5, 20)
    losses = smoothed.copy()
    losses[7] = 1e6
    low, high = _rate_range.RateRange(rates, losses, smoothed, None).plot().axes[0].get_ylim()
    assert 0.3 < low < 0.5
    assert 1.0 < high < 1.2


def test_the_picture_marks_the_suggestion(tmp_path):
    found = ody.rate_range_test(examples.linear_task(), optax.adamw, examples.train_data())
    figure = found.plot(tmp_path / "range.png")
    assert (tmp_path / "range.png").read_bytes()[1:4] == b"PNG"
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["loss", "smoothed", f"suggestion {found.suggestion:.2g}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 0.0}, "must be 0 < start < end, got 0.0 and 10.0"),
        ({"start": 20.0}, "must be 0 < start < end"),
        ({"steps": 9}, "steps must be an integer of at least 10, got 9"),
        ({"smoothing": 1.0}, "smoothing must be in the range"),
        ({"divergence": 1.0}, "divergence must be above 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ody.rate_range_test(quadratic(1.0), optax.sgd, DATA, **arguments)


def test_with_accumulation_every_rate_is_looked_at_once():
    options = {"start": 1e-3, "end": 1.0, "steps": 12}
    alone = ody.rate_range_test(quadratic(1.0), optax.sgd, DATA, **options)
    found = ody.rate_range_test(quadratic(1.0), optax.sgd, DATA, accumulate_steps=2, **options)
    np.testing.assert_allclose(found.rates, alone.rates, rtol=1e-6)
    np.testing.assert_allclose(found.losses, alone.losses, rtol=1e-6)  # the batches are alike
    assert found.suggestion == pytest.approx(alone.suggestion)
