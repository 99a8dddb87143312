"""The protocol of a program: the resident and the driven one agree, and neither is opened."""

import jax
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.callbacks import Retention
from odyssey_jax.feed import Driven
from odyssey_jax.train import Inputs, Reading, Resident
from tests import examples
from tests.examples import assert_same


def programs(name="pure", *, batch_size=8, callbacks=None, rate=0.05, **kwargs):
    """A resident and a driven program of the same run."""
    task = examples.TASKS[name]()
    train = examples.train_data(batch_size, drop_remainder=40 % batch_size == 0)
    inputs = Inputs(train, examples.valid_data(), ody.warmup_cosine(rate, 10, 60))
    kwargs.setdefault("sample_capacity", 32)
    loop = examples.make_loop(
        task,
        optax.adamw,
        metrics={"accuracy": ody.Accuracy(), "table": ody.ConfusionMatrix(3)},
        callbacks=callbacks or ody.early_stopping("valid/loss", 99, restore_best=True),
        capacity=16,
        **kwargs,
    )
    return [kind(task, loop, inputs) for kind in (Resident, Driven)]


def finished(program, limits):
    """The progress at each limit, and the result."""
    carry, seen = program.init(jax.random.key(3)), []
    for limit in limits:
        carry, progress = program.run(carry, limit)
        seen.append(progress.fetch())
    return seen, program.finish(carry)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nnx", {"batch_size": 12, "log_every_n_steps": 3}),
        ("pure", {"average": ody.exponential_average(0.9), "accumulate_steps": 2}),
        ("pure", {"callbacks": ody.early_stopping("valid/loss", 1), "rate": 3.0}),
        ("pure", {"keep_best": Retention(keep_best=2, monitor="valid/loss")}),
        ("pure", {"callbacks": ody.terminate_on_nan(), "rate": 1e30}),
    ],
)
def test_resident_and_driven_agree(name, options):
    """Integers and stops exactly, floats to rounding."""
    resident, driven = programs(name, **options)
    limits = (3, 7, 20, 40)
    (ours, end), (other, other_end) = (finished(p, limits) for p in (resident, driven))
    for a, b in zip(ours, other, strict=True):
        assert (a.step, a.epoch, a.stop, a.detail, a.save) == (
            b.step,
            b.epoch,
            b.stop,
            b.detail,
            b.save,
        )
        for x, y in ((a.history(), b.history()), (a.sampled(), b.sampled()), (a.latest, b.latest)):
            assert x.keys() == y.keys()
            for column in x:
                np.testing.assert_allclose(x[column], y[column], rtol=2e-4, atol=1e-6)
    for x, y in zip(jax.tree.leaves(end.state), jax.tree.leaves(other_end.state), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=1e-5)
    assert [t.monitor for t in end.bests] == [t.monitor for t in other_end.bests]


def test_a_driven_run_does_not_depend_on_where_it_is_cut():
    _, driven = programs("nnx", batch_size=12)
    (*_, whole), end = finished(driven, [24])
    (*_, cut), end_cut = finished(driven, [1, 4, 5, 9, 16, 24])
    unread = Reading()  # which has seconds in it
    assert_same(whole._replace(reading=unread), cut._replace(reading=unread))
    assert_same(end.state, end_cut.state)


def test_progress_is_one_transfer_and_outlives_the_carry(monkeypatch):
    resident, _ = programs(log_every_n_steps=2)
    carry = resident.init(jax.random.key(0))
    carry, running = resident.run(carry, 10)
    transfers, get = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: transfers.append(1) or get(tree))
    progress = running.fetch()
    assert len(transfers) == 1
    rows, samples = progress.history(), progress.sampled()
    before = {name: column.copy() for name, column in rows.items()}
    resident.run(carry, 20)
    assert_same(rows, before)
    assert rows["epoch"].tolist() == [0, 1]
    assert samples["step"].tolist() == [2, 4, 6, 8, 10]
    assert progress.history(1)["step"].tolist() == [10]
    assert progress.metrics()["valid/loss"] == pytest.approx(rows["valid/loss"][-1])
    assert list(progress.arrays()) == ["valid/table"]


def test_what_is_saved_makes_the_carry_again_with_other_room_and_ranking():
    kept = Retention(keep_best=2, monitor="valid/loss")
    resident, _ = programs(keep_best=kept)
    carry = resident.init(jax.random.key(0))
    for _ in range(4):
        carry, progress = resident.run(carry, 20)
    saved = resident.to_save(carry)
    assert saved.ranking is None
    roomy, _ = programs(keep_best=kept._replace(keep_best=1))
    again = roomy.restored(saved, roomy.init(jax.random.key(0)), decide_anew=False)
    losses = progress.fetch().history()["valid/loss"]
    np.testing.assert_array_equal(again.ranking.scores, [losses.min()])
    assert_same(again._replace(ranking=None), saved)
    target = resident.target(carry, {"capacity": 8, "sample_capacity": 32})
    assert target.history.epoch.shape == (8,)
    assert_same(resident.restored(target, carry, decide_anew=False), carry)


def test_the_model_is_traced_once_for_training_and_once_for_evaluation():
    traced = []

    def loss_fn(params, batch):
        traced.append(batch["x"].shape)
        return examples.linear_loss(params, batch)

    task = ody.pure_task(examples.linear_task().init(None)[0], loss_fn)
    inputs = Inputs(examples.train_data(), examples.train_data(), None)
    program = Resident(task, examples.make_loop(task, optax.adam(0.1), capacity=4), inputs)
    program.run(program.init(jax.random.key(0)), 5)
    assert len(traced) == 2


def test_a_program_needs_room_for_its_history():
    task = examples.linear_task()
    with pytest.raises(ValueError, match=r"room for its history: make_loop\(capacity=...\)"):
        Resident(task, examples.make_loop(task, optax.sgd(0.1)), Inputs(examples.train_data()))
