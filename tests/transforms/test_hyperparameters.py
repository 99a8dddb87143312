"""Momentum, weight decay, groups and layers in `fit`: as scheduled, logged, and resumed."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples
from tests.examples import assert_same

RATE = ody.warmup_cosine(0.1, 5, 20)
MOMENTUM = ody.schedules.one_cycle_momentum(20)
LABELS = {"w": "body", "b": "head"}


def injected(kind, rate, **more):
    return optax.inject_hyperparams(kind)(learning_rate=rate, **more)


def momentum(rate):
    return injected(optax.sgd, rate, momentum=MOMENTUM)


def coupled_decay(rate):
    return injected(optax.adamw, rate, weight_decay=ody.schedules.scale(rate, 0.2))


def independent_decay(rate):
    return optax.chain(
        optax.adam(rate), optax.add_decayed_weights(ody.schedules.scale(RATE, -1e-2))
    )


def by_group(rate):
    groups = {
        "body": injected(optax.adamw, ody.schedules.scale(rate, 0.1)),
        "head": injected(optax.sgd, rate),
    }
    return optax.partition(groups, LABELS)


def by_group_with_a_scale(rate):
    body = optax.chain(injected(optax.sgd, rate), ody.scale_by_callback())
    return optax.partition({"body": body, "head": injected(optax.sgd, rate)}, LABELS)


def by_layer(rate):
    return optax.chain(optax.adamw(rate), ody.transforms.scale_by_layer(0.5, ["w", "b"]))


def frozen(rate):
    return optax.partition({"body": optax.sgd(rate), "head": optax.set_to_zero()}, LABELS)


def masked(rate):
    return optax.adamw(rate, mask=lambda params: {name: x.ndim > 1 for name, x in params.items()})


def scaled(factor):
    return lambda step: factor * np.asarray(RATE(step))


# What is logged beside the rate, as a function of the last update of the epoch.
EXAMPLES = {
    momentum: {"momentum": MOMENTUM},
    coupled_decay: {"weight_decay": scaled(0.2)},
    independent_decay: {},
    by_group: {"learning_rate/body": scaled(0.1), "learning_rate/head": RATE},
    by_group_with_a_scale: {"learning_rate/head": RATE},
    by_layer: {"learning_rate/w": scaled(0.5), "learning_rate/b": RATE},
    frozen: {},
    masked: {},
}


def run(optimizer, directory=None, epochs=4, **kwargs):
    callbacks = None
    if optimizer is by_group_with_a_scale:
        callbacks = ody.adapt_rate("train/loss", ody.schedules.greedy(0.1, 4.0, 0.5, 0))
    return ody.fit(
        examples.linear_task(), optimizer, examples.train_data(), epochs=epochs,
        directory=directory, writers=[], callbacks=callbacks, **{"learning_rate": RATE, **kwargs},
    )  # fmt: skip


@pytest.mark.parametrize("optimizer", EXAMPLES, ids=lambda f: f.__name__)
def test_logged_as_scheduled_and_resumed_to_the_bit(optimizer, tmp_path):
    whole = run(optimizer, tmp_path / "whole")
    last = whole.history["step"] - 1
    for name, want in {"learning_rate": RATE, **EXAMPLES[optimizer]}.items():
        np.testing.assert_allclose(whole.history[name], want(last), rtol=1e-6, err_msg=name)
    run(optimizer, tmp_path / "cut", epochs=2)
    resumed = run(optimizer, tmp_path / "cut")
    assert_same(resumed.carry, whole.carry)
    assert_same(dict(resumed.history), dict(whole.history))


def test_a_scale_of_one_group():
    history = run(by_group_with_a_scale).history
    ratio = history["learning_rate/body"] / history["learning_rate/head"]
    assert ratio[0] == 1
    assert len(set(ratio.tolist())) > 1
    assert set(np.log2(ratio).tolist()) <= {-3, -2, -1, 0, 1, 2}
    np.testing.assert_allclose(history["learning_rate"], RATE(history["step"] - 1), rtol=1e-6)


def test_groups_move_at_their_own_rates():
    """To begin with, both see the same gradient as one optimizer would give."""
    plain = run(optax.sgd, epochs=1, steps_per_epoch=1, learning_rate=0.5).state.params
    groups = lambda rate: optax.partition(
        {"body": optax.sgd(ody.schedules.scale(rate, 0.1)), "head": optax.set_to_zero()}, LABELS
    )
    grouped = run(groups, epochs=1, steps_per_epoch=1, learning_rate=0.5).state.params
    np.testing.assert_allclose(grouped["w"], 0.1 * plain["w"], rtol=1e-6)
    np.testing.assert_array_equal(grouped["b"], jnp.zeros(3))
    layered = lambda rate: optax.chain(
        optax.sgd(rate), ody.transforms.scale_by_layer(0.1, ["w", "b"])
    )
    by_depth = run(layered, epochs=1, steps_per_epoch=1, learning_rate=0.5).state.params
    np.testing.assert_allclose(by_depth["w"], 0.1 * plain["w"], rtol=1e-6)
    np.testing.assert_allclose(by_depth["b"], plain["b"], rtol=1e-6)


def test_another_decay_of_the_layers_applies_on_resume(tmp_path):
    layers = lambda decay: (
        lambda rate: optax.chain(optax.sgd(rate), ody.transforms.scale_by_layer(decay, ["w", "b"]))
    )
    run(layers(0.5), tmp_path, epochs=2)
    history = run(layers(0.25), tmp_path, run_change="accept").history
    ratio = history["learning_rate/w"] / history["learning_rate"]
    np.testing.assert_allclose(ratio, [0.5, 0.5, 0.25, 0.25], rtol=1e-6)
