"""When `fit` saves: the marks, the time that saving may take, and what is kept of it."""

import itertools

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import odyssey_jax as ody
from odyssey_jax.data import Calendar
from odyssey_jax.fit._saving import Cadence, PendingBest, SaveBudget
from tests import examples
from tests.examples import assert_same

NEVER = ody.callbacks.at(epochs=[])


class Run:
    """A run without a program: it goes on to the end of a block, and a clock goes with it."""

    def __init__(self, saving, examples, batch_size, seconds=0.01, **kwargs):
        data = ody.ArrayDataset(np.zeros(examples), batch_size, **kwargs)
        self.now, self.step, self._seconds = 100.0, 0, seconds
        self.blocks = Calendar.of(data)
        self.cadence = Cadence(saving, self.blocks, 0, clock=lambda: self.now)

    def to(self, last, steps, took=0.0):
        """Yields the steps at which a save is due; each call may be `steps` long."""
        while self.step < last:
            limit = min(self.cadence.limit(self.step, steps), last)
            assert limit > self.step
            block = (
                1 if self.step % self.blocks.data_pass == self.blocks.full else self.blocks.block
            )
            done = -(-(limit - self.step) // block) * block
            self.step, self.now = self.step + done, self.now + done * self._seconds
            if self.cadence.due(self.step, took):
                self.cadence.saved()
                yield self.step


@pytest.mark.parametrize(
    ("when", "due"),
    [
        (ody.every(epochs=2), [20, 40, 60, 80, 100]),
        (ody.every(steps=15), [15, 30, 45, 60, 75, 90]),
        (ody.every(steps=7), [10, 15, 25, 30, 35, 45, 50, 60, 65, 70, 80, 85, 95, 100]),
        (ody.every(examples=100), [15, 25, 40, 50, 65, 75, 90, 100]),  # 8 to a step
        (ody.callbacks.at(steps=[5, 6, 90]), [5, 10, 90]),
        (ody.every(steps=5) & ody.after(epochs=9), [90, 95, 100]),
        (ody.every(epochs=1) & ody.until(epochs=3) | ody.every(epochs=5), [10, 20, 50, 100]),
        (ody.every(epochs=1) & ~ody.every(epochs=2), [10, 30, 50, 70, 90]),
        (NEVER, []),
    ],
)
@pytest.mark.parametrize("steps", [1, 30, 1000])
def test_marks_are_met_at_the_end_of_the_block_however_long_a_call_may_be(when, due, steps):
    run = Run(ody.checkpoint(when), 80, 8)
    run.blocks = run.cadence._calendar = run.blocks._replace(block=5)
    assert list(run.to(100, steps)) == due


@given(st.integers(1, 40), st.integers(1, 60), st.booleans(), st.integers(1, 9))
def test_examples_are_counted_as_the_data_is_cut(every, steps, drop, batch_size):
    run = Run(ody.checkpoint(ody.every(examples=every)), 23, batch_size, drop_remainder=drop)
    sizes = [batch_size] * (23 // batch_size) + ([] if drop else [23 % batch_size])
    counts = np.cumsum([0, *itertools.islice(itertools.cycle([x for x in sizes if x]), 60)])
    ends = [n for n in range(1, 61) if counts[n] // every > counts[n - 1] // every]
    got = list(run.to(60, steps))
    if run.blocks.block == 1:
        assert got == ends
    assert all(run.cadence._moment(n).examples == counts[n] for n in range(61))


def test_seconds_are_seen_when_the_loop_is_back():
    run = Run(ody.checkpoint(ody.every(seconds=3) | ody.callbacks.at(seconds=0.5)), 80, 8)
    assert list(run.to(1000, steps=50)) == [50, 300, 600, 900]


def test_without_a_cadence_about_every_half_minute_at_the_end_of_an_epoch():
    run = Run(ody.checkpoint(), 80, 8)  # epochs of 0.1 s
    assert list(run.to(10_000, steps=53)) == [3000, 6000, 9000]
    run = Run(ody.checkpoint(), 80_000, 8)  # epochs of 100 s
    assert list(run.to(20_000, steps=50)) == [6000, 10_000, 16_000, 20_000]
    run = Run(ody.checkpoint(keep_every_epochs=70), 80, 8)  # what is kept for good is saved
    assert list(run.to(3_000, steps=50)) == [700, 1400, 2100, 2800]


@given(st.floats(0.001, 500), st.floats(0.001, 2))
def test_saving_takes_a_twentieth_of_the_time_at_most(took, look):
    allowance, now, begun = SaveBudget(0.0), 0.0, []
    for _ in range(2000):
        now += look
        going_on = bool(begun) and now < begun[-1] + took
        if allowance.suffices(now, True, None if going_on else took if begun else 0.0):
            begun.append(now)
            allowance.spend(now)
    between = np.diff([0.0, *begun])
    assert all(between >= 30 - 1e-6)
    assert all(between[1:] >= 20 * took - 1e-6)
    assert all(between <= max(30, 20 * took) + look + 1e-6)


def test_the_best_of_the_first_moments_waits():
    """Nobody knows yet what a save takes, and where epochs are short each is a best at first."""
    allowance = SaveBudget(100.0)
    assert [allowance.is_free(now, took=0.0) for now in (100.0, 100.9, 101.0)] == [0, 0, 1]


def test_a_better_best_takes_the_memory_of_the_one_that_waits():
    carry = {"w": jax.numpy.arange(100.0), "key": jax.random.key(0)}
    waiting = PendingBest(allowed=True)
    waiting.put(carry, None)
    first = waiting._held[0]["w"]
    memory = first.unsafe_buffer_pointer()
    waiting.put(carry | {"w": carry["w"] + 1}, None)
    assert first.is_deleted()
    assert waiting
    held, _ = waiting.take()
    assert held["w"].unsafe_buffer_pointer() == memory
    assert_same(held, carry | {"w": carry["w"] + 1})
    assert not waiting


def fit(directory, callbacks, epochs=6, learning_rate=0.05, **kwargs):
    return ody.fit(
        examples.linear_task(), optax.adamw, examples.train_data(), examples.valid_data(),
        epochs=epochs, learning_rate=learning_rate, callbacks=callbacks, directory=directory,
        writers=[], **kwargs,
    )  # fmt: skip


def saved(directory):
    """The steps of the checkpoints, and the metrics of each."""
    reader = ody.store.Reader(directory / "checkpoints")
    return {step: reader.metadata(step)["metrics"] for step in reader.steps()}


def test_within_an_epoch_it_resumes_to_the_bit_and_has_no_metrics(tmp_path):
    saving = ody.checkpoint(ody.every(steps=3), keep_last=None, keep_best=1, monitor="valid/loss")
    cadences = [ody.checkpoint(every_epochs=4, keep_last=None), saving]
    train = ody.ArrayDataset(examples.arrays(), 8, shuffle=True)
    whole = [fit(tmp_path / str(i), x, steps_per_epoch=7) for i, x in enumerate(cadences)]
    assert_same(whole[0].state, whole[1].state)
    assert_same(dict(whole[0].history), dict(whole[1].history))
    assert train.steps_per_pass == 5
    found = saved(tmp_path / "1")
    assert set(range(3, 43, 3)) <= found.keys()
    assert {step for step, metrics in found.items() if metrics} == set(found) & set(range(7, 43, 7))
    with ody.Store(tmp_path / "1" / "checkpoints", keep_last=None, monitor="valid/loss") as store:
        assert store.best() % 7 == 0
    for step in (3, 15, 39):
        resumed = fit(tmp_path / "1", saving, steps_per_epoch=7, resume=step)
        assert_same(resumed.carry, whole[1].carry)
        assert_same(dict(resumed.history), dict(whole[1].history))


def test_every_epoch_that_is_asked_for_is_committed(tmp_path):
    fit(tmp_path, ody.checkpoint(every_epochs=1, keep_last=None))
    assert list(saved(tmp_path)) == [5, 10, 15, 20, 25, 30]


def test_without_a_cadence_a_short_run_is_saved_at_its_end(tmp_path):
    fit(tmp_path, None)
    assert list(saved(tmp_path)) == [30]


def test_what_is_kept_for_good_is_saved_and_stays(tmp_path):
    fit(tmp_path, ody.checkpoint(NEVER, keep_every_epochs=2))
    assert list(saved(tmp_path)) == [10, 20, 30]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("busy", [False, True])
def test_the_best_is_saved_whatever_the_cadence(tmp_path, monkeypatch, mode, busy):
    """While a save is going on, a best waits, and a better one takes its place."""
    begun, save = [], ody.Store.save
    monkeypatch.setattr(
        ody.Store, "save", lambda s, step, *x, **y: begun.append(step) or save(s, step, *x, **y)
    )
    if busy:
        monkeypatch.setattr(ody.Store, "save_seconds", None)
    saving = ody.checkpoint(NEVER, keep_best=1, monitor="valid/loss", mode=mode)
    result = fit(tmp_path, saving, epochs=9, learning_rate=2.0)
    losses = result.history["valid/loss"]
    best = int(losses.argmin() if mode == "min" else losses.argmax())
    assert best < 8
    assert list(saved(tmp_path)) == [5 * (best + 1), 45]
    assert begun == [5 * (best + 1), 45] if busy else {5, 45} <= set(begun)
    again = fit(tmp_path, saving, epochs=9, learning_rate=2.0, resume="best")
    assert_same(again.carry, result.carry)
    assert list(saved(tmp_path)) == [5 * (best + 1), 45]


def test_what_another_callback_asks_for_never_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(ody.Store, "save_seconds", None)
    saving = ody.checkpoint(NEVER, keep_last=None, keep_best=1, monitor="valid/loss")
    asking = ody.callback(lambda event: None, at_four)
    fit(tmp_path, ody.chain(asking, saving))
    assert 20 in saved(tmp_path)


def at_four(state, event):
    return state, ody.Signal.none()._replace(save=event.clock.epoch == 3)


def test_another_retention_goes_on_with_the_same_run_and_program(tmp_path):
    whole = fit(tmp_path / "whole", ody.checkpoint())
    fit(tmp_path / "cut", ody.checkpoint(every_epochs=1), epochs=3)
    saving = ody.checkpoint(every_epochs=2, keep_best=2, monitor="valid/loss")
    resumed = fit(tmp_path / "cut", saving)
    assert_same(resumed.state, whole.state)
    ranking = resumed.carry.ranking
    np.testing.assert_array_equal(ranking.scores, np.sort(whole.history["valid/loss"])[:2])
    assert whole.carry.ranking is None
