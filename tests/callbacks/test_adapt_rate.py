"""The rate follows a validation metric: in fit, resumed, in a population, and refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples
from tests.examples import assert_same

EPOCHS = 12


def scaled_sgd(rate):
    return optax.chain(optax.sgd(rate, momentum=0.9), ody.scale_by_callback())


def run(directory=None, epochs=EPOCHS, rule=None, optimizer=scaled_sgd, **kwargs):
    rule = ody.reduce_on_plateau(0.5, 0) if rule is None else rule
    with jax.numpy_dtype_promotion("standard"):
        return ody.fit(
            examples.linear_task(), optimizer, examples.train_data(), examples.valid_data(),
            epochs=epochs, directory=directory, writers=[],
            **{
                "callbacks": ody.adapt_rate("valid/loss", rule),
                "learning_rate": ody.warmup_cosine(3.0, 10, 60),
                **kwargs,
            },
        )  # fmt: skip


def scales_of(losses, rule):
    """The scale in force in each epoch: that of the losses before it."""
    state, scales = rule.init(), []
    for loss in losses:
        scales.append(float(state.scale))
        state = rule.update(state, loss)
    return np.asarray(scales)


@pytest.mark.parametrize(
    "rule", [ody.reduce_on_plateau(0.5, 0), ody.schedules.greedy(0.1, 4.0, 0.5, 1, window=2)]
)
def test_the_logged_rate_is_the_one_in_force(rule):
    result = run(rule=rule)
    scales = scales_of(result.history["valid/loss"], rule)
    assert len(set(scales)) > 2
    schedule = ody.warmup_cosine(3.0, 10, 60)
    want = np.asarray(schedule(result.history["step"] - 1)) * scales
    np.testing.assert_allclose(result.history["learning_rate"], want, rtol=1e-6)


def test_it_trains_as_a_schedule_that_is_scaled_by_hand():
    rule = ody.reduce_on_plateau(0.5, 0)
    result = run(rule=rule)
    rates = jnp.asarray(np.repeat(scales_of(result.history["valid/loss"], rule), 5), jnp.float32)
    base = ody.warmup_cosine(3.0, 10, 60)
    by_hand = run(
        rule=ody.reduce_on_plateau(0.5, 999),
        optimizer=lambda rate: scaled_sgd(lambda step: base(step) * rates[step]),
    )
    # The momentum is of gradients, which the rate does not scale.
    np.testing.assert_allclose(
        by_hand.history["valid/loss"], result.history["valid/loss"], rtol=1e-4
    )


def test_interrupted_after_every_epoch_equals_uninterrupted(tmp_path):
    whole = run(tmp_path / "whole", epochs=6)
    assert len(set(scales_of(whole.history["valid/loss"], ody.reduce_on_plateau(0.5, 0)))) > 1
    for epoch in range(1, 7):
        resumed = run(tmp_path / "cut", epochs=epoch)
    assert_same(resumed.carry, whole.carry)
    assert_same(dict(resumed.history), dict(whole.history))


def test_a_new_patience_applies_on_resume(tmp_path):
    """As if the rule had been the other one from there on: the state is what was seen."""
    first = run(tmp_path, epochs=8, rule=ody.reduce_on_plateau(0.5, 50))
    assert first.carry.callbacks[0].wait == 2
    longer = run(tmp_path, rule=ody.reduce_on_plateau(0.5, 2))
    ratio = longer.history["learning_rate"] / ody.warmup_cosine(3.0, 10, 60)(
        longer.history["step"] - 1
    )
    np.testing.assert_allclose(ratio[:9], 1.0, rtol=1e-6)
    np.testing.assert_allclose(ratio[9], 0.5, rtol=1e-6)


def test_another_rule_goes_on_with_no_run_that_has_stopped(tmp_path):
    stopping = ody.early_stopping("valid/loss", 1)
    both = lambda patience: ody.chain(
        stopping, ody.adapt_rate("valid/loss", ody.reduce_on_plateau(0.5, patience))
    )
    first = run(tmp_path, 100, callbacks=both(1))
    again = run(tmp_path, 100, callbacks=both(5))
    assert (again.epochs, again.reason) == (first.epochs, "no improvement for 1 epoch")


@pytest.mark.parametrize("accumulate", [1, 5])
def test_with_clipping_accumulation_and_early_stopping(accumulate):
    rule = ody.reduce_on_plateau(0.5, 0)
    stopping = ody.early_stopping("valid/loss", 3, restore_best=True)
    with jax.numpy_dtype_promotion("standard"):
        result = ody.fit(
            examples.linear_task(), scaled_sgd, examples.train_data(), examples.valid_data(),
            epochs=30, learning_rate=1.0, clip_norm=1.0, accumulate_steps=accumulate, writers=[],
            callbacks=ody.chain(stopping, ody.adapt_rate("valid/loss", rule)),
        )  # fmt: skip
    want = scales_of(result.history["valid/loss"], rule)
    assert len(set(want)) > 2
    np.testing.assert_allclose(result.history["learning_rate"], want, rtol=1e-6)


def test_members_of_a_population_have_scales_of_their_own():
    task, callback = examples.linear_task(), ody.adapt_rate("valid/loss", RULE)
    loop = ody.train.make_loop(task, scaled_sgd, callbacks=callback)
    rates = np.float32([0.01, 0.3, 20.0])
    data = (examples.train_data(), examples.valid_data())
    with jax.numpy_dtype_promotion("standard"):
        both = ody.train.population(loop, task)
        inputs = ody.train.Inputs(*data, jax.vmap(ody.constant)(rates))
        keys = jnp.stack([jax.random.key(0)] * 3)
        carry = jax.jit(lambda inputs: both.run(both.init(keys, inputs), inputs, 60))(inputs)
        scales = carry.state.opt_state[1].scale
        assert len(set(scales.tolist())) > 1
        begin = lambda alone: loop.init(keys[0], *task.init(keys[0]), alone)
        single = jax.jit(lambda alone: loop.run(begin(alone), alone, 60))
        for member, rate in enumerate(rates):
            alone = ody.train.Inputs(*data, ody.constant(float(rate)))
            own = single(alone)
            assert own.state.opt_state[1].scale == scales[member]


RULE = ody.reduce_on_plateau(0.5, 0)


def test_an_optimizer_without_a_scale_is_refused():
    with pytest.raises(ValueError, match=r"no scale to set.*put scale_by_callback\(\) behind") as e:
        run(optimizer=optax.sgd)
    assert "adapt_rate" in str(e.value)


def test_a_metric_that_does_not_exist_is_refused():
    callback = ody.adapt_rate("loss", RULE)
    event = ody.Event({"train/loss": 0.0, "learning_rate": 0.1})
    with pytest.raises(ValueError, match="no metric 'loss'; the scalar metrics are: learning_rate"):
        callback.init(event)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="rule must have init"):
        ody.adapt_rate("valid/loss", 0.5)  # pyright: ignore
    for first in (0.1, [1.0, 1.0]):
        with pytest.raises(ValueError, match=r"must be a scalar that begins at 1; got init_scale"):
            ody.adapt_rate("valid/loss", ody.reduce_on_plateau(init_scale=first))
    with pytest.raises(ValueError, match="monitor must be a metric's name"):
        ody.adapt_rate("", RULE)
