"""Padding of ragged batches, and the mask that says what is none."""

import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax as ody


def test_a_smaller_batch_is_filled_up():
    batch = {"x": np.ones((3, 2), np.float32), "y": jnp.arange(3), "z": np.array([True] * 3)}
    padded = ody.pad_to(batch, 4)
    assert padded["x"].tolist() == [[1, 1]] * 3 + [[0, 0]]
    assert padded["y"].tolist() == [0, 1, 2, 0]
    assert padded["mask"].tolist() == [True, True, True, False]
    assert [padded[name].dtype for name in "xyz"] == [np.float32, np.int32, bool]
    for one, other in zip(ody.pad_to(batch, 3).values(), batch.values(), strict=False):
        np.testing.assert_array_equal(one, other)


def test_ragged_arrays_are_stacked():
    rows = [np.array([1, 2], np.int32), np.array([], np.int32), np.array([3, 4, 5], np.int32)]
    ragged = np.empty(3, object)
    ragged[:] = rows
    for x in (rows, ragged, [row.tolist() for row in rows]):
        padded = ody.pad_to({"t": x, "y": np.arange(3)}, (4, 3), value={"t": -1}, mask="m")
        assert padded["t"].tolist() == [[1, 2, -1], [-1] * 3, [3, 4, 5], [-1] * 3]
        assert padded["t"].dtype.kind == "i"
        assert padded["m"].tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]
        assert padded["y"].tolist() == [0, 1, 2, 0]


def test_the_mask_is_what_the_metrics_heed():
    padded = ody.pad_to({"logits": np.eye(3)[:2], "labels": np.array([0, 2])}, 4)
    accuracy = ody.Accuracy().from_model_output(**padded)
    assert float(accuracy.compute()) == 0.5


@pytest.mark.parametrize(
    ("batch", "shape", "message"),
    [
        ((np.ones(3),), 4, "batch must be a dict, .* got a tuple"),
        ({"mask": np.ones(3)}, 4, "has 'mask' already: call the mask another"),
        ({"x": np.ones(5)}, 4, r"batch\['x'\] has shape \[5\], which is larger than \[4\]"),
        ({"x": [np.ones(2), np.ones(9)]}, (2, 8), r"batch\['x'\]\[1\] has shape \[9\], .* \[8\]"),
        ({"x": [np.ones(2), np.ones(3)]}, 4, r"different lengths: give shape=\(examples, length\)"),
        ({"x": np.ones(3), "y": np.ones(2)}, 4, r"number of examples: \{'x': 3, 'y': 2\}"),
        (
            {"x": np.ones((2, 3)), "y": np.ones((2, 4))},
            (2, 4),
            r"batch\['x'\] and batch\['y'\] differ in what is to be padded",
        ),
        ({"x": np.ones(3)}, (4, 5), r"shape=\(4, 5\) has 2 axes, and no array of the batch has"),
        ({}, 4, "shape=4 has 1 axes, and no array"),
        ({"x": np.array(["a"])}, 4, r"batch\['x'\] must be .* dtype <U1"),
        ({"x": np.ones(3)}, 0, "shape must be an integer of at least 1, got 0"),
        ({"x": np.ones(3)}, (4, None), "shape must be an integer of at least 1, got None"),
    ],
)
def test_bad_arguments_are_refused(batch, shape, message):
    with pytest.raises(ValueError, match=message):
        ody.pad_to(batch, shape)
