"""Host code at exact marks, however long a call of the program may be."""

import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples
from tests.examples import assert_same


def run(directory=None, *hooks, epochs=12, **kwargs):
    return ody.fit(
        examples.linear_task(), optax.sgd(0.1), examples.train_data(), examples.valid_data(),
        epochs=epochs, directory=directory, writers=[], hooks=hooks, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("when", "steps"),
    [
        (None, range(5, 61, 5)),
        (ody.every(epochs=5), [25, 50]),
        (ody.every(epochs=4) | ody.callbacks.at(epochs=[3]), [15, 20, 40, 60]),
        (ody.every(steps=10), range(10, 61, 10)),
        (ody.callbacks.at(epochs=[12]), [60]),
    ],
)
def test_called_at_each_mark_and_nowhere_else(when, steps):
    seen = []
    result = run(None, ody.hook(lambda view: seen.append((view.step, view.epoch, view.row)), when))
    assert [step for step, _, _ in seen] == list(steps)
    for step, epoch, row in seen:
        assert epoch == step // 5
        assert row["step"] == step
        assert row["valid/loss"] == pytest.approx(float(result.history["valid/loss"][epoch - 1]))


def test_it_sees_the_model_as_it_was_measured_and_changes_nothing():
    seen = []

    def look(view):
        task = examples.linear_task()
        found = ody.evaluate(task, view.state, examples.valid_data())["loss"]
        seen.append((float(found), view.row["valid/loss"], np.array(view.model["w"])))

    hooked = run(None, ody.hook(look, ody.every(epochs=3)), average=ody.exponential_average(0.9))
    for found, row, _ in seen:
        assert found == pytest.approx(row, rel=1e-6)
    assert len({weights.tobytes() for *_, weights in seen}) == 4
    assert_same(hooked.state, run(average=ody.exponential_average(0.9)).state)


def test_a_resume_calls_it_at_what_is_left(tmp_path):
    seen = []
    see = ody.hook(lambda view: seen.append(view.epoch), ody.every(epochs=2))
    run(tmp_path, see, epochs=5)
    run(tmp_path, see)
    assert seen == [2, 4, 6, 8, 10, 12]


def test_what_is_no_hook():
    with pytest.raises(TypeError, match="hooks must be a list of what hook"):
        run(None, lambda view: None)
    with pytest.raises(TypeError, match=r"when must be a condition such as .*, got 5"):
        ody.hook(print, 5)
    with pytest.raises(TypeError, match="function must be callable with a view of the run, got 3"):
        ody.hook(3)
