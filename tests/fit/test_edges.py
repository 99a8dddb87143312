"""Arguments at the edges: directories, devices, NumPy's numbers, and what is no bool."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.cli import main
from tests import examples

SGD = optax.sgd(0.1)
URLS = ["az://bucket/run", "http://host/run", "hdfs://host/run"]


def squares(w, batch):
    return ((w - batch) ** 2).mean()


TASK = ody.pure_task(jnp.zeros(()), squares)
DATA = ody.ArrayDataset(jnp.arange(8.0), batch_size=4)


def fit(**how):
    return ody.fit(TASK, SGD, DATA, DATA, **{"epochs": 1, "writers": [], **how})


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_refused_before_anything_compiles_and_makes_no_folder(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    traced = []
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: traced.append(1) or squares(w, batch))
    uses = [
        lambda: ody.fit(task, SGD, DATA, epochs=1, writers=[], directory=url),
        lambda: ody.Store(url),
        lambda: ody.runs.find_runs(url),
        lambda: ody.load_params(url),
        lambda: ody.export_params(url, "params"),
    ]
    for use in uses:
        with pytest.raises(
            ValueError,
            match=r"must be a local path or the URL of a bucket, got .*odyssey-jax\[buckets\]",
        ):
            use()
    assert not traced
    assert not os.listdir(tmp_path)


def test_home_and_file_urls_are_the_places_that_they_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    fit(directory="~/run")
    fit(directory=f"file://{tmp_path}/with%20space")
    assert (tmp_path / "home" / "run" / "checkpoints").is_dir()
    assert (tmp_path / "with space" / "checkpoints").is_dir()
    assert len(ody.runs.find_runs("~")) == 1
    assert main(["checkpoints", f"file://{tmp_path}/with%20space"]) == 0
    assert main(["runs", "~"]) == 0
    assert main(["runs", "az://bucket"]) != 0
    assert "must be a local path" in capsys.readouterr().err
    ody.export_params("~/run", "~/params.safetensors")
    assert (tmp_path / "home" / "params.safetensors").is_file()
    assert not os.listdir(work)


def test_a_run_goes_where_it_was_told_whatever_the_working_directory_is_later(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    away = tmp_path / "away"
    away.mkdir()
    fit(directory="run", hooks=[ody.hook(lambda view: os.chdir(away))])
    assert (tmp_path / "run" / "checkpoints").is_dir()
    assert not os.listdir(away)


def test_a_directory_in_a_checkpoint_is_refused(tmp_path):
    steps = fit(directory=tmp_path).steps
    for inside in ("", "state", "a/b"):
        where = tmp_path / "checkpoints" / str(steps) / inside
        with pytest.raises(ody.errors.CheckpointError, match="lies in the checkpoint"):
            fit(directory=where)
    assert fit(directory=tmp_path / "2024" / "1").steps == steps  # numbers alone are none


def sharded(x, axis="data"):
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("data",))
    return jax.device_put(x, jax.NamedSharding(mesh, jax.P(axis)))


@pytest.mark.parametrize("placement", [None, ody.data_parallel()], ids=["none", "data"])
def test_data_that_lies_in_parts_is_refused_and_not_replicated_in_silence(placement):
    data = ody.ArrayDataset({"x": sharded(jnp.arange(8.0))}, batch_size=8)
    with pytest.raises(ValueError, match=r"the training data 'data/x' lies in parts on 2"):
        ody.fit(TASK, SGD, data, epochs=1, writers=[], placement=placement)


def test_parameters_in_parts_are_refused_where_one_device_would_hold_them():
    task = ody.pure_task({"w": sharded(jnp.zeros(4))}, lambda p, batch: squares(p["w"], batch))
    with pytest.raises(ValueError, match=r"parameter .w. lies in parts on 2 devices: .*as_given"):
        ody.fit(task, SGD, DATA, epochs=1, writers=[])
    whole = {"w": sharded(jnp.zeros(4), None)}  # on both, but whole
    task = ody.pure_task(whole, lambda p, batch: squares(p["w"], batch))
    ody.fit(task, SGD, DATA, epochs=1, writers=[])


@pytest.mark.parametrize(
    "make",
    [
        lambda: ody.exponential_average(warmup="no"),
        lambda: ody.ArrayDataset(jnp.ones(4), 2, shuffle="no"),
        lambda: ody.ArrayDataset(jnp.ones(4), 2, drop_remainder=0),
        lambda: ody.early_stopping("valid/loss", 1, restore_best="no"),
        lambda: ody.one_cycle(1.0, 10, three_phase="no"),
        lambda: ody.callback(lambda event: None, lambda state, event: state, saves="no"),
    ],
)
def test_what_is_no_bool_is_refused(make):
    with pytest.raises(ValueError, match="must be True or False"):
        make()


def test_numpy_integers_are_counts(tmp_path):
    n = np.int64
    callbacks = ody.chain(
        ody.early_stopping("valid/loss", n(3), min_epochs=n(1)),
        ody.max_steps(n(100)),
        ody.checkpoint(
            ody.every(epochs=n(1)) | ody.callbacks.at(steps=[n(2)]),
            keep_last=n(2), keep_best=n(1), monitor="valid/loss",
        ),
    )  # fmt: skip
    how = {
        "callbacks": callbacks,
        "directory": tmp_path,
        "steps_per_epoch": n(2),
        "accumulate_steps": n(2),
        "log_every_n_steps": n(1),
        "seed": n(3),
    }
    assert fit(epochs=n(2), **how).epochs == 2
    assert fit(epochs=n(3), resume=n(4), **how).epochs == 3
    ody.rate_range_test(TASK, optax.sgd, DATA, steps=n(20))


def test_evaluate_takes_the_average_that_a_state_holds():
    result = fit(epochs=4, average=ody.exponential_average(0.9))
    measured = float(ody.evaluate(TASK, result.carry.state, DATA)["loss"])
    assert measured == result.metrics["valid/loss"]
    assert float(ody.evaluate(TASK, result.state, DATA)["loss"]) == measured
    assert measured != float(squares(result.carry.state.params, jnp.arange(8.0)))


def test_the_best_that_is_restored_is_evaluated_and_not_the_last_average():
    stopping = ody.early_stopping("valid/loss", 5, mode="max", restore_best=True)
    result = fit(epochs=4, average=ody.exponential_average(0.9), callbacks=stopping)
    assert result.best_epoch == 0
    measured = float(ody.evaluate(TASK, result.state, DATA)["loss"])
    assert measured == result.metrics["valid/loss"]


def test_evaluate_names_what_data_is():
    with pytest.raises(ValueError, match="data is of arrays: say how many examples make a batch"):
        ody.evaluate(examples.linear_task(), ody.TrainState(None), np.zeros(3))
    with pytest.raises(TypeError, match="data must be arrays or a pytree of arrays with batch"):
        ody.evaluate(examples.linear_task(), ody.TrainState(None), 3)


def test_the_range_test_names_what_it_sets_itself():
    with pytest.raises(ValueError, match="rate_range_test sets epochs itself"):
        ody.rate_range_test(TASK, optax.sgd, DATA, epochs=3)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"epochs": 2**31}, "epochs must be at most 2\\*\\*31 - 1, got 2147483648"),
        ({"seed": 2**63}, "seed must be an integer of 64 bits, got 9223372036854775808"),
        ({"learning_rate": 10**400}, "learning_rate must be finite and at least 0, got 1000"),
        ({"steps_per_epoch": 10**12}, "steps_per_epoch must be at most"),
    ],
)
def test_numbers_beyond_what_is_counted_to_are_refused(how, message):
    optimizer = optax.sgd if "learning_rate" in how else optax.sgd(0.1)
    with pytest.raises(ValueError, match=message):
        ody.fit(TASK, optimizer, DATA, writers=[], **{"epochs": 1, **how})
    with pytest.raises(ValueError, match="steps must be at most"):
        ody.max_steps(2**31)
