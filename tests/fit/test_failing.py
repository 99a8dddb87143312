"""A failing writer or save costs no model: the run so far is saved and handed back."""

import optax
import pytest

import odyssey_jax as ody
from tests import examples
from tests.examples import assert_same


class Failing:
    """Raises once, when so many epochs are done."""

    def __init__(self, epoch=2, reads_state=False):
        self.left, self.reads_state, self.rows, self.closed = epoch, reads_state, [], False

    def open(self, run):
        pass

    def write(self, rows, live):
        self.rows += rows
        if rows and rows[-1]["epoch"] + 1 >= self.left:
            self.left = 10**9
            raise OSError("the tracker is away")

    def close(self):
        self.closed = True


def run(directory, writer=None, epochs=6, **kwargs):
    return ody.fit(
        examples.linear_task(), optax.sgd(0.1), examples.train_data(), examples.valid_data(),
        epochs=epochs, directory=directory, writers=[] if writer is None else [writer], **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("reads_state", [False, True])
@pytest.mark.parametrize("epoch", [2, 6])
def test_the_run_so_far_is_saved_and_on_the_exception(tmp_path, reads_state, epoch):
    whole = run(tmp_path / "whole")
    writer = Failing(epoch, reads_state)
    with pytest.raises(OSError, match="the tracker is away") as caught:
        run(tmp_path / "cut", writer)
    assert writer.closed
    result = caught.value.result
    assert result.steps >= 5 * epoch
    assert "this error's `result`" in caught.value.__notes__[0]
    reader = ody.store.Reader(tmp_path / "cut" / "checkpoints")
    assert reader.latest() == result.steps
    assert_same(run(tmp_path / "cut").carry, whole.carry)


def test_without_a_directory_the_result_is_on_the_exception():
    with pytest.raises(OSError, match="away") as caught:
        run(None, Failing())
    assert caught.value.result.model["w"].shape == (4, 3)


def test_a_writer_may_be_left_out_with_a_warning(tmp_path):
    failing, other = Failing(1), Failing(10**9)
    with pytest.warns(RuntimeWarning, match="Failing failed, and the run goes on without it: OSEr"):
        result = ody.fit(
            examples.linear_task(), optax.sgd(0.1), examples.train_data(), epochs=6,
            writers=[failing, other], on_failed_write="warn",
        )  # fmt: skip
    assert result.epochs == 6
    assert [row["epoch"] for row in other.rows] == list(range(6))
    assert failing.closed


def test_a_first_loss_that_is_not_finite_has_no_result():
    task = ody.pure_task(
        {"w": examples.arrays()["x"][:1] * float("nan")}, lambda p, b: p["w"].sum()
    )
    with pytest.raises(ValueError, match="first train step is not finite") as caught:
        ody.fit(task, optax.sgd(0.1), examples.train_data(), epochs=1, writers=[])
    assert not hasattr(caught.value, "result")
