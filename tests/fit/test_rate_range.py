"""The range test: on a problem whose best rates are known, and on ones that go wrong."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples


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
