"""`predict`: what a model makes of each example, in order, wherever the data lies."""

import numpy as np
import optax
import pytest
from flax import nnx

import odyssey_jax as ody
from tests import examples
from tests.sources import Read

DATA = examples.arrays(22, seed=1)
STATE = ody.TrainState(
    {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), "b": np.ones(3, np.float32)}
)
WANT = DATA["x"] @ STATE.params["w"] + STATE.params["b"]


def batches():
    for first in range(0, 22, 8):
        yield {name: x[first : first + 8] for name, x in DATA.items()}


@pytest.mark.parametrize(
    "data",
    [
        ody.ArrayDataset(DATA, 8, shuffle=True),
        ody.ArrayDataset(DATA, 11),
        ody.HostDataset(DATA, 8),
        ody.stream(batches, steps_per_pass=3, remainder=6),
        list(batches()),
    ],
    ids=["resident", "whole batches", "host", "generator", "list"],
)
def test_in_the_order_of_the_examples(data):
    """The smaller last batch too; by default what the loss returns of examples."""
    found = ody.predict(examples.linear_task(), STATE, data)
    assert found.keys() == {"logits", "labels"}  # and not the loss, which is of a batch
    assert isinstance(found["logits"], np.ndarray)
    np.testing.assert_array_equal(found["labels"], DATA["y"])
    np.testing.assert_allclose(found["logits"], WANT, rtol=1e-5, atol=1e-6)


def test_plain_arrays_without_labels_and_a_part_of_what_is_read():
    def classes(params, batch):
        logits = batch["x"] @ params["w"] + params["b"]
        return logits.argmax(-1), {"best": logits.max(-1)}

    task, x = examples.linear_task(), {"x": DATA["x"]}
    index, more = ody.predict(task, STATE, x, classes, batch_size=5)
    np.testing.assert_array_equal(index, WANT.argmax(-1))
    np.testing.assert_allclose(more["best"], WANT.max(-1), rtol=1e-5)
    index, _ = ody.predict(task, STATE, ody.HostDataset(x, 5), classes, steps=2)
    np.testing.assert_array_equal(index, WANT.argmax(-1)[:10])
    flipped = ody.ArrayDataset(x, 5, transform=lambda batch, key: {"x": -batch["x"]})
    index, _ = ody.predict(task, STATE._replace(params={**STATE.params, "b": np.zeros(3)}),
                           flipped, classes)  # fmt: skip
    np.testing.assert_array_equal(index, (WANT - 1).argmin(-1))


def test_a_module_is_in_evaluation_mode():
    """It has dropout and batch statistics."""
    task = examples.nnx_task()
    result = ody.fit(task, optax.sgd, examples.train_data(),
                     epochs=1, learning_rate=0.1, writers=[])  # fmt: skip
    found = ody.predict(task, result.state, DATA, lambda model, b: model(b["x"]), batch_size=8)
    want = nnx.jit(lambda model, x: model(x))(result.model, DATA["x"])
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        ody.predict(task, result.state, DATA, batch_size=8)["logits"], found
    )


def test_what_pads_is_left_out():
    def loss_fn(w, batch):
        return (w * batch["x"]).mean(), {"y": w * batch["x"], "mask": batch["mask"]}

    padded = [ody.pad_to({"x": x}, (3, 2)) for x in (np.ones((3, 2)), np.full((2, 1), 2.0))]
    task = ody.pure_task(np.float32(3), loss_fn)
    found = ody.predict(task, ody.TrainState(np.float32(3)), padded)
    assert found["y"].tolist() == [[3, 3], [3, 3], [3, 3], [6, 0], [6, 0]]
    assert found["mask"][3].tolist() == [True, False]
    every = ody.predict(task, ody.TrainState(np.float32(3)), padded, lambda w, b: w * b["x"])
    assert every.shape == (6, 2)  # a function of one's own says itself what it returns


def test_what_is_refused():
    task = examples.linear_task()
    with pytest.raises(ValueError, match="is shuffled, and what is predicted would come in an"):
        ody.predict(task, STATE, ody.HostDataset(DATA, 8, shuffle=True))
    with pytest.raises(ValueError, match=r"axis is its 8 examples, got 'w' of \[4, 3\]"):
        ody.predict(task, STATE, DATA, lambda params, _: {"w": params["w"]}, batch_size=8)
    mean = ody.pure_task(STATE.params, lambda p, b: (b["x"] @ p["w"]).mean())
    with pytest.raises(ValueError, match="got none: give a function="):
        ody.predict(mean, STATE, DATA, batch_size=8)
    for endless in (Read(endless=True), batches):
        with pytest.raises(ValueError, match="steps must be given: how many batches"):
            ody.predict(task, STATE, endless)
    with pytest.raises(KeyError) as raised:
        ody.predict(task, STATE, DATA, lambda params, batch: batch["z"], batch_size=8)
    assert "with a batch of" in raised.value.__notes__[0]
