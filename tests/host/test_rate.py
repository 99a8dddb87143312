"""The rate is that of the training alone."""

import itertools

import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.host._rate import Rate
from odyssey_jax.loop import Blocks
from tests import examples

BLOCKS = Blocks(epoch=40, data_pass=40, full=40, block=10)


@pytest.mark.parametrize(
    ("step", "limit", "expected"),
    [
        (0, 20, 20),  # within an epoch: all of it
        (0, 40, 30),
        (40, 400, 70),
        (20, 40, 30),
        (30, 40, 30),  # nothing is left before the end
        (30, 80, 30),
    ],
)
def test_a_call_stops_before_an_epoch_ends(step, limit, expected):
    assert Rate(BLOCKS, 0.0).stop_before(step, limit) == expected


def test_an_epoch_of_one_block_has_no_such_call():
    rate = Rate(Blocks(epoch=10, data_pass=10, full=10, block=10), 0.0)
    assert rate.stop_before(20, 50) == 20
    rate.took(20, 50, 3.0)
    assert rate.steps_per_second == 10


@pytest.mark.parametrize("block", [1, 7, 10])
def test_the_rate_of_a_run_whose_validation_takes_longer_than_its_training(block):
    """A step takes 2 ms, the end of an epoch 50 ms, a call by itself 1 ms."""
    epoch = 7 * 10
    rate = Rate(Blocks(epoch, epoch, epoch, block), 0.001)
    assert rate.steps_per_second != rate.steps_per_second  # NaN
    step = 0
    for limit in (block, 8 * block, epoch, 3 * epoch, 10 * epoch, 12 * epoch + 4 * block):
        for until in (rate.stop_before(step, limit), limit):
            if until > step:
                ended = until // epoch - step // epoch
                rate.took(step, until, 0.002 * (until - step) + 0.05 * ended + 0.001)
            step = until
    assert rate.steps_per_second == pytest.approx(500)


def test_fit_calls_the_program_where_no_epoch_ends(monkeypatch, tmp_path):
    calls, took = [], Rate.took

    def record(self, before, after, seconds):
        calls.append((before, after))
        took(self, before, after, seconds)

    monkeypatch.setattr(Rate, "took", record)
    train = ody.ArrayDataset(examples.arrays(), 2)  # 20 steps to an epoch, in two blocks
    # Every other epoch a save is due, and a best may be at any: the run comes up for both.
    saving = ody.checkpoint(every_epochs=2, keep_best=1, monitor="valid/loss")
    result = ody.fit(
        examples.linear_task(), optax.sgd(0.1), train, examples.valid_data(), epochs=6,
        writers=[], callbacks=saving, directory=tmp_path,
    )  # fmt: skip
    edges = [before for before, _ in calls] + [120]
    assert calls == list(itertools.pairwise(edges)), "nothing twice and nothing left out"
    assert edges[0] == 0
    ends = [(before, after) for before, after in calls if before // 20 != after // 20]
    assert all(before % 20 == 10 for before, _ in ends), "each after a part that has no end"
    assert result.steps_per_second > 0
