"""A run is what it is made of: another loss, optimizer or data is not taken for it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.data import checksum
from odyssey_jax.train._fingerprint import of_function
from tests import examples
from tests.examples import assert_same

PARAMS = examples.linear_task().init(None)[0]


def task(factor=1.0, l2=0.0):
    """Made anew each time, as a script that is run again makes it."""

    def loss(params, batch):
        value, outputs = examples.linear_loss(params, batch)
        return factor * value + l2 * jnp.sum(params["w"] ** 2), outputs

    return ody.pure_task(PARAMS, loss)


def data(seed=0):
    return ody.ArrayDataset(examples.arrays(40, seed), 8, shuffle=True)


def run(directory, epochs=2, task=task, decay=1e-4, train=data, valid=data, **kwargs):
    return ody.fit(
        task(), lambda rate: optax.adamw(rate, weight_decay=decay), train(), valid(),
        epochs=epochs, learning_rate=0.05, directory=directory, writers=[], **kwargs,
    )  # fmt: skip


def test_the_same_script_goes_on(tmp_path, capfd):
    whole = run(tmp_path / "whole", 4, config={"a": 1, "b": [1, 2]})
    assert capfd.readouterr().err == ""
    run(tmp_path / "cut", 2, config={"a": 1, "b": (1, 2)})
    again = run(tmp_path / "cut", 4, config={"b": [1, 2], "a": 1})
    said = capfd.readouterr().err
    assert re.fullmatch(rf"resumed from step 10 of {tmp_path / 'cut'}, saved \d+ s ago\n", said)
    assert_same(again.carry, whole.carry)
    run(tmp_path / "cut", 4, config={"a": 1, "b": [1, 2]})
    said = f"{tmp_path / 'cut'} is complete: nothing to train; resume=False begins again\n"
    assert capfd.readouterr().err == said


OTHERS = {
    "loss function": {"task": lambda: task(factor=2.0)},
    "optimizer": {"decay": 1e-2},
    "training data": {"train": lambda: data(7)},
    "validation data": {"valid": lambda: data(7)},
    r"config\['a'\] \(1 then, 2 now\)": {"config": {"a": 2}},
    r"config\['b'\] \(None then, 3 now\)": {"config": {"a": 1, "b": 3}},
}


@pytest.mark.parametrize("epochs", [2, 4])
@pytest.mark.parametrize("name", OTHERS)
def test_what_differs_is_refused_by_name_and_can_be_accepted(tmp_path, name, epochs):
    """Also where nothing is left to train: the old model would come back for the new one."""
    first = run(tmp_path, config={"a": 1})
    other = {"config": {"a": 1}, **OTHERS[name]}
    with pytest.raises(ValueError, match=f"begun with another {name}. Use the same; or go on"):
        run(tmp_path, epochs, **other)
    assert ody.store.Reader(tmp_path / "checkpoints").steps() == (first.steps,)
    assert run(tmp_path, epochs, run_change="accept", **other).epochs == epochs


def test_the_kind_of_random_numbers_is_part_of_it(tmp_path):
    run(tmp_path)
    with (
        jax.threefry_partitionable(False),
        pytest.raises(ValueError, match="another random numbers"),
    ):
        run(tmp_path, 4)


def test_what_makes_no_difference_is_no_difference(tmp_path):
    run(tmp_path)

    def the_same_in_other_words(params, batch):
        return examples.linear_loss(params, batch)

    other = lambda: ody.pure_task(PARAMS, the_same_in_other_words)
    plain = lambda: ody.pure_task(PARAMS, examples.linear_loss)
    run(tmp_path / "plain", task=plain)
    assert run(tmp_path / "plain", 4, task=other).epochs == 4


def test_run_change_needs_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"run_change='accept' needs a directory with a run"):
        run(None, run_change="accept")
    with pytest.raises(ValueError, match="run_change must be 'refuse' or 'accept', got 'yes'"):
        run(tmp_path, run_change="yes")


def test_fingerprints():
    add = lambda c: lambda x: x + c
    x = jnp.ones(3)
    assert of_function(add(1.0), x) == of_function(add(1.0), x) != of_function(add(2.0), x)
    table = np.arange(3.0, dtype=np.float32)
    assert of_function(add(table), x) != of_function(add(2 * table), x)
    big = np.zeros((20_000, 1_000), np.float32)
    before = checksum(big)
    big[10_000] = 1  # a row that is not among the sampled ones, or is
    big[-1] = 1
    assert checksum(big) != before
    assert checksum({"a": table}) != checksum({"a": table.astype(np.float64)})
