"""Compiled programs: equal loops share one, which dies with the functions it was made of."""

import gc
import weakref

import jax.numpy as jnp
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.train import _programs
from tests import examples

SGD = optax.sgd(0.1)


def squares(w, batch):
    return ((w - batch) ** 2).mean()


def task_of(loss_fn):
    return ody.pure_task(jnp.zeros(()), loss_fn)


def fit(task, optimizer, **how):
    data = ody.ArrayDataset(jnp.arange(4.0), batch_size=2)
    return ody.fit(task, optimizer, data, data, epochs=1, writers=[], **how)


def with_a_loss(directory):
    loss_fn = lambda w, batch: squares(w, batch)
    fit(task_of(loss_fn), SGD)
    return loss_fn


def with_a_method(directory):
    class Losses:
        def squares(self, w, batch):
            return squares(w, batch)

    losses = Losses()
    fit(task_of(losses.squares), SGD)
    return losses


def with_an_optimizer(directory):
    optimizer = optax.adam(0.1)
    fit(task_of(squares), optimizer)
    return optimizer.update


def with_a_function_of_a_rate(directory):
    optimizer = lambda rate: optax.adam(rate)
    fit(task_of(squares), optimizer, learning_rate=0.1)
    return optimizer


def saved_with_callbacks(directory):
    loss_fn = lambda w, batch: squares(w, batch)
    callbacks = ody.early_stopping("valid/loss", 2, restore_best=True)
    fit(task_of(loss_fn), SGD, callbacks=callbacks, directory=directory)
    return loss_fn


def evaluated(directory):
    loss_fn = lambda w, batch: squares(w, batch)
    data = ody.ArrayDataset(jnp.arange(4.0), batch_size=2)
    ody.evaluate(task_of(loss_fn), ody.TrainState(jnp.zeros(())), data)
    return loss_fn


def with_a_step_of_its_own(directory):
    update = lambda *args: ody.train.train_step(*args)
    fit(task_of(squares)._replace(update=update), SGD)
    return update


def with_eval_params(directory):
    eval_params = lambda opt_state, params: params / 2
    fit(task_of(squares), SGD, eval_params=eval_params)
    return eval_params


def with_a_hook(directory):
    loss_fn = lambda w, batch: squares(w, batch)
    measure = lambda view: {"a": 1.0}
    fit(task_of(loss_fn), SGD, hooks=[ody.hook(measure, columns=("a",))])
    return measure


def nnx_in_half_precision(directory):
    loss_fn = lambda model, batch: examples.nnx_loss(model, batch)
    task = ody.nnx_task(examples.NnxModel(examples.nnx.Rngs(0)), loss_fn)
    ody.fit(ody.mixed_precision(task), SGD, examples.train_data(), epochs=1, writers=[])
    return loss_fn


def linen(directory):
    loss_fn = lambda apply, batch, train: examples.linen_loss(apply, batch, train)
    task = ody.linen_task(examples.LinenModel(), loss_fn, jnp.zeros((1, 4)), train=False)
    ody.fit(task, SGD, examples.train_data(), epochs=1, writers=[])
    return loss_fn


@pytest.mark.parametrize(
    "use",
    [
        with_a_loss,
        with_a_method,
        with_an_optimizer,
        with_a_function_of_a_rate,
        saved_with_callbacks,
        evaluated,
        with_a_step_of_its_own,
        with_eval_params,
        with_a_hook,
        nnx_in_half_precision,
        linen,
    ],
)
def test_what_a_finished_run_was_made_of_is_collected(use, tmp_path, monkeypatch):
    monkeypatch.setattr(_programs, "_found", {})
    made = weakref.ref(use(tmp_path))
    gc.collect()
    assert made() is None
    assert not _programs._found


def test_runs_with_fresh_functions_leave_next_to_nothing():
    def objects(runs):
        for _ in range(runs):
            fit(task_of(lambda w, batch: squares(w, batch)), optax.adam(0.1))
        gc.collect()
        return len(gc.get_objects())

    objects(2)
    before = objects(1)
    assert (objects(4) - before) / 4 < 100  # some 3,000 where its programs are kept


def counted(traces):
    def loss_fn(w, batch):
        traces.append(1)
        return squares(w, batch)

    return loss_fn


def test_a_loop_that_is_equal_to_one_that_is_gone_is_not_traced_again():
    traces = []
    loss_fn = counted(traces)
    fit(task_of(loss_fn), SGD)
    once = len(traces)
    gc.collect()
    fit(task_of(loss_fn), SGD)
    assert len(traces) == once
    fit(task_of(loss_fn), optax.sgd(0.1))  # another object, which may compute anything
    assert len(traces) > once


def test_so_does_one_of_a_method_that_python_makes_anew():
    traces = []
    loss_fn = counted(traces)

    class Losses:
        def squares(self, w, batch):
            return loss_fn(w, batch)

    losses = Losses()
    fit(task_of(losses.squares), SGD)
    once = len(traces)
    fit(task_of(losses.squares), SGD)
    assert len(traces) == once


def test_programs_of_living_functions_are_bounded(monkeypatch):
    monkeypatch.setattr(_programs, "_KEPT", 2)
    monkeypatch.setattr(_programs, "_found", {})
    task = task_of(squares)
    optimizers = [optax.sgd(0.1) for _ in range(3)]
    for optimizer in optimizers:
        fit(task, optimizer)
    kept = list(_programs._found.values())
    assert len(kept) == 2
    fit(task, optimizers[1])
    assert list(_programs._found.values()) == kept[::-1]  # the last one used goes last
