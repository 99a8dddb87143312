"""ConfusionMatrix: against scikit-learn, and what is in no class."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odyssey_jax.metrics import ConfusionMatrix

CLASSES = 4
AVERAGES = [None, "macro", "micro", "weighted"]
matrices = st.lists(
    st.integers(0, 1000), min_size=CLASSES * CLASSES, max_size=CLASSES * CLASSES
).map(lambda cells: ConfusionMatrix(CLASSES, jnp.array(cells).reshape(CLASSES, CLASSES)))


def cases():
    rng = np.random.default_rng(0)
    yield "all", rng.integers(0, CLASSES, 200), rng.integers(0, CLASSES, 200)
    yield "absent", rng.integers(0, 2, 50), rng.integers(1, 3, 50)
    yield "perfect", np.arange(CLASSES), np.arange(CLASSES)
    yield "one", np.array([2]), np.array([3])
    yield "wrong", np.zeros(5, int), np.ones(5, int)


SCORES = ("precision", "recall", "f1")


def names():
    """Return each reading of a matrix: the method, and its argument."""
    scores = [(name, average) for name in SCORES for average in AVERAGES]
    return scores + [("normalized", over) for over in ("true", "pred", "all")]


@jax.jit
def read(matrix):
    return [getattr(matrix, name)(argument) for name, argument in names()]


of = jax.jit(ConfusionMatrix(CLASSES).from_model_output)

CASES = pytest.mark.parametrize(
    ("labels", "predictions"), [pytest.param(t, p, id=name) for name, t, p in cases()]
)


@CASES
def test_equals_scikit_learn(labels, predictions):
    sk = importlib.import_module("sklearn.metrics")
    matrix = of(labels=labels.astype(np.int32), predictions=predictions.astype(np.int32))
    every = list(range(CLASSES))
    expected = functools.partial(sk.confusion_matrix, labels, predictions, labels=every)
    assert matrix.compute().dtype == jnp.int32
    np.testing.assert_array_equal(matrix.compute(), expected())
    mine = dict(zip(names(), read(matrix), strict=True))
    assert {x.dtype for x in mine.values()} == {jnp.dtype(jnp.float32)}
    for over in ("true", "pred", "all"):
        share = expected(normalize=over)
        np.testing.assert_allclose(mine["normalized", over], share, rtol=1e-6, atol=0)
    for average in AVERAGES:
        *scores, support = sk.precision_recall_fscore_support(
            labels, predictions, labels=every, average=average, zero_division=0
        )
        for name, score in zip(SCORES, scores, strict=True):
            np.testing.assert_allclose(mine[name, average], score, rtol=1e-6, err_msg=name)
        if average is None:
            np.testing.assert_array_equal(matrix.support(), support)


def of_batch(pairs, mask):
    return of(labels=pairs[:, 0], predictions=pairs[:, 1], mask=mask)


def test_logits_give_what_their_argmax_gives():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(6, 5, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, (6, 5))
    by_logits = of(logits=logits, labels=labels)
    by_class = of(predictions=logits.argmax(-1), labels=labels)
    np.testing.assert_array_equal(by_logits.counts, by_class.counts)
    assert int(by_logits.counts.sum()) == 30


def test_what_is_in_no_class_is_ignored_and_counted():
    labels = jnp.array([0, -1, 4, 1, 2, 2_000_000_000, -5])
    predictions = jnp.array([0, 0, 0, -1, 4, 1, 1])
    matrix = of(labels=labels, predictions=predictions)
    assert int(matrix.counts.sum()) == int(matrix.counts[0, 0]) == 1
    assert int(matrix.ignored) == 6
    assert int(matrix.merge(matrix).ignored) == 12


def test_unsigned_and_wide_labels_do_not_wrap_into_a_class():
    of_three = jax.jit(ConfusionMatrix(3).from_model_output)
    labels = np.array([2**32 - 1, 2**31, 1], np.uint32)
    matrix = of_three(labels=labels, predictions=np.ones(3, int))
    assert (int(matrix.ignored), int(matrix.counts[1, 1])) == (2, 1)
    with jax.enable_x64(True):
        labels = jnp.array([2**32 + 1, -(2**32) + 1, 1])
        assert labels.dtype == jnp.int64
        matrix = of_three(labels=labels, predictions=labels)
    assert (int(matrix.ignored), int(matrix.counts[1, 1])) == (2, 1)


def test_masked_and_nan_examples():
    logits = jnp.array([[jnp.nan, 0.0], [1.0, 0.0], [1.0, 0.0]])
    outputs = {"logits": logits, "labels": jnp.zeros(3, int), "mask": jnp.array([1, 1, 0])}
    matrix = jax.jit(ConfusionMatrix(2).from_model_output)(**outputs)
    assert matrix.counts.tolist() == [[1, 0], [0, 0]]
    assert int(matrix.ignored) == 1


def test_empty_gives_zeros():
    assert not any(np.any(x) for x in read(ConfusionMatrix(CLASSES).empty()))


@settings(max_examples=25, deadline=None)
@given(matrices, matrices, matrices)
def test_merge_is_commutative_associative_and_empty_changes_nothing(a, b, c):
    same = np.testing.assert_array_equal
    same(a.merge(b).counts, b.merge(a).counts)
    same(a.merge(b).merge(c).counts, a.merge(b.merge(c)).counts)
    same(a.merge(a.empty()).counts, a.counts)
    same(a.empty().merge(a).counts, a.counts)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-1, CLASSES), st.integers(-1, CLASSES)), min_size=1, max_size=30
    ),
    st.integers(0, 30),
)
def test_any_split_into_batches_equals_one_batch(pairs, cut):
    padded = np.zeros((30, 2), np.int32)
    padded[: len(pairs)] = pairs
    there = np.arange(30) < len(pairs)
    first = np.arange(30) < cut
    split = of_batch(padded, there & first).merge(of_batch(padded, there & ~first))
    whole = of_batch(padded, there)
    np.testing.assert_array_equal(split.counts, whole.counts)
    assert int(split.ignored) == int(whole.ignored)
    assert int(whole.ignored) + int(whole.counts.sum()) == len(pairs)


@settings(max_examples=25, deadline=None)
@given(matrices)
def test_identities(matrix):
    mine = dict(zip(names(), read(matrix), strict=True))
    # One number, as every example has one label and one prediction.
    assert mine["precision", "micro"] == mine["recall", "micro"] == mine["f1", "micro"]
    for over, score in (("true", "recall"), ("pred", "precision")):
        np.testing.assert_allclose(
            np.diagonal(mine["normalized", over]), mine[score, None], rtol=1e-6
        )


def test_leaves_may_be_anything():
    """A pytree is mapped to None, to strings, to shapes; the constructor must let it."""
    matrix = ConfusionMatrix(3)
    assert jax.tree.map(lambda _: None, matrix).counts is None
    assert jax.tree.map(lambda _: 0, matrix).counts == 0
    assert jax.eval_shape(matrix.empty).counts.shape == (3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConfusionMatrix(1), "an integer num_classes of at least 2, got 1"),
        (lambda: ConfusionMatrix(2.5), "got 2.5"),
        (lambda: ConfusionMatrix(True), "got True"),
        (
            lambda: ConfusionMatrix(2).normalized("rows"),
            "over must be one of 'true', 'pred', 'all', got 'rows'",
        ),
        (
            lambda: ConfusionMatrix(2).f1("mean"),
            "average must be one of None, 'macro', 'micro', 'weighted', got 'mean'",
        ),
        (
            lambda: ConfusionMatrix(3).from_model_output(
                logits=jnp.ones((2, 4)), labels=jnp.zeros(2, int)
            ),
            r"ConfusionMatrix\(num_classes=3\) needs logits of 3 classes, got logits \[2, 4\]",
        ),
        (
            lambda: ConfusionMatrix(2).merge(ConfusionMatrix(3)),
            r"num_classes=2\) cannot be merged with ConfusionMatrix\(num_classes=3\)",
        ),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
