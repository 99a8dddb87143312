"""Mean: weights, masks, precision, and what is not a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odyssey_jax.metrics import Mean

values = st.floats(-1e3, 1e3, width=32)
batches = st.lists(st.tuples(values, st.integers(0, 64)), min_size=1, max_size=4)


@jax.jit
def observe(mean, loss, weight):
    return mean.merge(mean.from_model_output(loss=loss, weight=weight))


merge = jax.jit(lambda a, b: a.merge(b))


def of(batches):
    mean = Mean("loss")
    for loss, weight in batches:
        mean = observe(mean, loss, weight)
    return mean


def pair(mean):
    """Return total and count in float64, where the two halves add up exactly."""
    return list(np.asarray(mean.sums, np.float64).sum(axis=1))


def test_small_last_batch_counts_by_its_examples():
    assert float(of([(1.0, 128), (4.0, 64)]).compute()) == 2.0


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({"loss": 3.0}, 3.0),
        ({"loss": jnp.int32(3), "weight": jnp.int32(5)}, 3.0),
        ({"loss": jnp.array([1.0, 2.0, 6.0]), "weight": jnp.float32(3)}, 3.0),
        ({"loss": jnp.array([1.0, 2.0, jnp.nan]), "mask": jnp.array([1, 1, 0])}, 1.5),
        ({"loss": jnp.ones((2, 3)).at[1].set(9), "mask": jnp.array([True, False])}, 1.0),
        ({"loss": jnp.array([True, False, True, True])}, 0.75),
        ({"loss": jnp.array(2, jnp.bfloat16), "weight": 1}, 2.0),
    ],
)
def test_of_scalars_and_arrays(outputs, expected):
    mean = Mean("loss").from_model_output(**outputs, other="ignored").compute()
    assert mean.dtype == jnp.float32
    assert float(mean) == expected


def test_masked_scalar_without_weight_stands_for_what_the_mask_keeps():
    mean = Mean("loss").from_model_output(loss=2.0, mask=jnp.array([1, 1, 0]))
    assert pair(mean) == [4.0, 2.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible(bad):
    for order in ([(1.0, 3), (bad, 3), (1.0, 3)], [(bad, 1), (2.0, 1)], [(2.0, 1), (bad, 1)]):
        np.testing.assert_equal(float(of(order).compute()), bad)


def test_nan_of_weight_zero_was_not_observed():
    assert float(of([(2.0, 4), (np.nan, 0)]).compute()) == 2.0


def test_empty_is_nan():
    assert np.isnan(Mean("loss").compute())
    assert np.isnan(of([(1.0, 0)]).compute())


@settings(max_examples=30, deadline=None)
@given(batches, batches, batches)
def test_merge_is_commutative_associative_and_empty_changes_nothing(a, b, c):
    a, b, c = of(a), of(b), of(c)
    np.testing.assert_array_equal(merge(a, b).sums, merge(b, a).sums)
    left, right = pair(merge(merge(a, b), c)), pair(merge(a, merge(b, c)))
    size = sum(abs(pair(x)[0]) for x in (a, b, c))
    assert abs(left[0] - right[0]) <= 2**-44 * size
    assert left[1] == right[1]
    for same in (merge(a, a.empty()), merge(a.empty(), a)):
        np.testing.assert_array_equal(same.sums, a.sums)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(values, st.integers(0, 3)), min_size=1, max_size=20))
def test_any_split_into_batches_equals_one_batch(examples):
    losses = np.zeros(20, np.float32)
    losses[: len(examples)] = [loss for loss, _ in examples]
    batch = np.full(20, -1)
    batch[: len(examples)] = [number for _, number in examples]
    mean = Mean("loss")
    for number in range(4):
        mean = merge(mean, of_examples(losses, batch == number))
    whole = of_examples(losses, batch >= 0)
    assert pair(mean)[1] == pair(whole)[1] == len(examples)
    # XLA takes numbers below 1e-38 for zero.
    atol = 1e-6 * np.abs(losses).sum() + 1e-36
    np.testing.assert_allclose(pair(mean)[0], losses.astype(np.float64).sum(), atol=atol)
    np.testing.assert_allclose(pair(whole)[0], pair(mean)[0], atol=atol)


@jax.jit
def of_examples(losses, mask):
    return Mean("loss").from_model_output(loss=losses, mask=mask)


def test_long_epoch_neither_drifts_nor_stops_counting():
    # Plain float32 gives 0.1008 for the mean, and stops counting at 2**24 examples.
    steps, weight = 1_000_000, 128

    @jax.jit
    def run():
        batch = Mean("loss").from_model_output(loss=jnp.float32(0.1), weight=weight)
        return jax.lax.fori_loop(0, steps, lambda _, mean: mean.merge(batch), Mean("loss"))

    mean = run()
    assert pair(mean)[1] == steps * weight
    assert float(mean.compute()) == float(np.float32(0.1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mean(""), r"Mean needs the name of an output, .* got output=''"),
        (lambda: Mean(3), "got output=3"),
        (
            lambda: Mean("los").from_model_output(loss=1.0, logits=2.0),
            r"Mean\('los'\) needs the output 'los', but the outputs are 'logits', 'loss'",
        ),
        (lambda: Mean().from_model_output(), "but the outputs are none"),
        (
            lambda: Mean().from_model_output(loss=jnp.ones(3), mask=jnp.ones(4)),
            r"a mask of the shape of the values, \[3\], or of its leading axes, got \[4\]",
        ),
        (
            lambda: Mean().from_model_output(loss=1.0, weight=jnp.ones(4)),
            r"a scalar weight, the number of examples, got a weight of shape \[4\]",
        ),
        (lambda: Mean().from_model_output(loss=1j), "needs real values, got complex"),
        (
            lambda: Mean("a").merge(Mean("b")),
            r"Mean\('a'\) cannot be merged with Mean\(.*'b'\)",
        ),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_masks_and_weights_of_ones_own_names():
    values, hard, area = [1.0, 3.0, np.nan, 8.0], [0, 1, 0, 1], [2.0, 0.5, 0.0, 1.5]
    outputs = {"x": jnp.asarray(values), "hard": jnp.asarray(hard), "area": jnp.asarray(area)}
    outputs |= {"mask": jnp.asarray([1, 1, 0, 1]), "tokens": jnp.asarray(6), "loss": jnp.asarray(2)}
    of = lambda **names: float(Mean("x", **names).from_model_output(**outputs).compute())
    assert of() == 4
    assert of(mask="hard") == 5.5
    assert of(weight="area") == (2 * 1 + 0.5 * 3 + 1.5 * 8) / 4
    assert of(mask="hard", weight="area") == (0.5 * 3 + 1.5 * 8) / 2
    mean = Mean("loss", weight="tokens").from_model_output(**outputs)
    assert np.asarray(mean.sums)[:, 0].tolist() == [12, 6]
    again = mean.empty().merge(mean)
    assert (repr(again), float(again.compute())) == ("Mean('loss', weight='tokens')", 2)


@pytest.mark.parametrize("names", [{"mask": "easy"}, {"weight": "easy"}])
def test_a_mask_or_weight_that_is_missing_is_named(names):
    with pytest.raises(ValueError, match="'easy'"):
        Mean("x", **names).from_model_output(x=jnp.ones(2))
    with pytest.raises(ValueError, match="cannot be merged"):
        Mean("x", **names).merge(Mean("x"))
    with pytest.raises(ValueError, match="needs the name of an output"):
        Mean("x", **dict.fromkeys(names, 3))
