"""The rate is that of the training alone."""

import itertools

import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.data import Calendar
from odyssey_jax.fit._throughput import Throughput
from tests import examples

BLOCKS = Calendar(epoch=40, data_pass=40, full=40, block=10)


@pytest.mark.parametrize(
    ("step", "limit", "expected"),
    [
        (0, 20, [20]),  # within an epoch
        (0, 40, [20, 30, 40]),
        (40, 400, [60, 70, 80, 400]),
        (20, 40, [30, 40]),
        (30, 40, [40]),
        (30, 80, [40, 80]),
    ],
)
def test_a_call_is_made_in_parts_where_an_epoch_ends(step, limit, expected):
    assert Throughput(BLOCKS).parts(step, limit) == expected


def run(rate, blocks, limits, step_took=0.002, end_took=0.05, call_took=0.003):
    """Calls that take what they take."""
    step = 0
    for limit in limits:
        for until in rate.parts(step, limit):
            ended = until // blocks.epoch - step // blocks.epoch
            rate.took(step, until, step_took * (until - step) + end_took * ended + call_took)
            step = until
    return rate


@pytest.mark.parametrize("block", [1, 7, 10])
def test_the_rate_of_a_run_whose_validation_takes_longer_than_its_training(block):
    """A step takes 2 ms, the end of an epoch 300 ms."""
    blocks = Calendar(70, 70, 70, block)
    limits = (block, 3 * block, *range(70, 70 * 500, 70 * 20), 70 * 500 + 4 * block)
    rate = Throughput(blocks)
    assert np.isnan(rate.steps_per_second)
    # The calls themselves, some 90 of 35 steps or more, are the only thing that is in it.
    assert run(rate, blocks, limits, end_took=0.3).steps_per_second == pytest.approx(500, rel=0.01)
    assert run(
        Throughput(blocks), blocks, limits, 0.002, 0.3, 0.0
    ).steps_per_second == pytest.approx(500)


def test_the_parts_come_to_an_end():
    rate = run(Throughput(BLOCKS, enough=3), BLOCKS, range(80, 800, 80))  # 2.5 s
    assert rate.parts(800, 880) == [880]


def test_a_short_run_has_one_call_in_parts():
    """Whatever it takes, which is not the same in all processes."""
    for took in (1e-4, 10.0):
        rate = run(Throughput(BLOCKS), BLOCKS, [80], took)
        for step in range(80, 560, 80):  # from the 5th call on
            assert rate.parts(step, step + 80) == [step + 80]
            rate.took(step, step + 80, took)
        assert rate.parts(560, 640) == [580, 590, 600, 640]


def test_an_epoch_of_one_block_is_counted_with_its_end():
    blocks = Calendar(10, 10, 10, 10)
    rate = run(Throughput(blocks), blocks, [10, 40, 80], 0.002, 0.02, 0.0)
    assert rate.parts(80, 120) == [120]
    assert rate.steps_per_second == pytest.approx(250)


def test_fit_calls_the_program_where_no_epoch_ends(monkeypatch, tmp_path):
    calls, took = [], Throughput.took

    def record(self, before, after, seconds):
        calls.append((before, after))
        took(self, before, after, seconds)

    monkeypatch.setattr(Throughput, "took", record)
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
    assert ends[0][0] % 20 == 10, "after a part that has no end"
    assert result.steps_per_second > 0
