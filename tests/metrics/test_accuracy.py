"""Accuracy: against NumPy, with masks, NaNs and labels that are not classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odyssey_jax.metrics import Accuracy, ConfusionMatrix

of = jax.jit(Accuracy().from_model_output)


def random_outputs(seed, shape, classes=5):
    rng = np.random.default_rng(seed)
    return {
        "logits": rng.normal(size=(*shape, classes)).astype(np.float32),
        "labels": rng.integers(0, classes, shape, dtype=np.int32),
        "mask": rng.random(shape) < 0.7,
    }


@pytest.mark.parametrize("shape", [(), (17,), (4, 6)])
def test_equals_numpy(shape):
    outputs = random_outputs(0, shape)
    right = outputs["logits"].argmax(-1) == outputs["labels"]
    mask = outputs.pop("mask")
    metric = of(**outputs, loss=0)
    assert metric.correct.dtype == metric.count.dtype == jnp.int32
    assert metric.compute().dtype == jnp.float32
    np.testing.assert_allclose(metric.compute(), right.mean(), rtol=1e-6)
    kept = of(**outputs, mask=mask)
    assert int(kept.correct) == np.sum(right & mask)
    assert int(kept.count) == mask.sum()


def test_mask_of_leading_axes():
    outputs = random_outputs(1, (4, 6)) | {"mask": np.array([1, 0, 1, 0])}
    assert int(of(**outputs).count) == 12


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32, np.int32, bool])
def test_predictions_and_labels_of_any_integer_dtype(dtype):
    labels = np.array([0, 1, 1, 0], dtype)
    metric = of(predictions=np.array([0, 1, 0, 0]), labels=labels)
    assert float(metric.compute()) == 0.75


def test_split_equals_whole_and_merge_commutes():
    outputs = random_outputs(2, (20,))
    parts = [{k: v[s] for k, v in outputs.items()} for s in (slice(7), slice(7, 20))]
    a, b, whole = (of(**x) for x in (*parts, outputs))
    for merged in (a.merge(b), b.merge(a), whole.merge(Accuracy()), whole.empty().merge(whole)):
        assert (merged.correct, merged.count) == (whole.correct, whole.count)


def test_nan_logits_and_negative_labels_are_never_right():
    logits = jnp.array([[jnp.nan, 1.0], [jnp.nan, 1.0], [1.0, 0.0]])
    metric = of(logits=logits, labels=jnp.array([0, -1, -1]))
    assert (int(metric.correct), int(metric.count)) == (0, 3)


def test_empty_is_nan():
    assert np.isnan(Accuracy().compute())


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"logits": jnp.ones((2, 3))}, "Accuracy needs the output 'labels', but .* 'logits'"),
        ({"labels": jnp.zeros(2, int)}, r"'logits' \(or 'predictions'\), but .* 'labels'"),
        (
            {"logits": jnp.ones((2, 3)), "labels": jnp.ones((2, 3), int)},
            r"got logits \[2, 3\] and labels \[2, 3\].*one-hot labels pass labels.argmax",
        ),
        (
            {"logits": jnp.ones((2, 3)), "labels": jnp.ones(2)},
            "needs integer labels, got labels of dtype float32",
        ),
        (
            {"predictions": jnp.ones((2, 3), int), "labels": jnp.ones(2, int)},
            r"predictions of the shape of labels, \[2\], got \[2, 3\]",
        ),
    ],
)
def test_refuses(outputs, message):
    with pytest.raises(ValueError, match=message):
        Accuracy().from_model_output(**outputs)


@pytest.mark.parametrize("metric", [Accuracy(mask="hard"), ConfusionMatrix(2, mask="hard")])
def test_a_mask_of_ones_own_name(metric):
    outputs = {"labels": jnp.asarray([0, 1, 1]), "predictions": jnp.asarray([0, 0, 1])}
    outputs |= {"hard": jnp.asarray([0, 1, 1]), "mask": jnp.asarray([1, 0, 0])}
    of = metric.empty().merge(metric.from_model_output(**outputs))
    assert int(jnp.sum(of.counts if hasattr(of, "counts") else of.count)) == 2
    assert of.mask == "hard"
    with pytest.raises(ValueError, match="'hard'"):
        metric.from_model_output(**{k: v for k, v in outputs.items() if k != "hard"})
