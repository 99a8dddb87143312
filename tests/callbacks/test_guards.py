"""Guards: what is not finite or diverges ends the run, is gone back from, or is skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.transforms import with_counts_of
from tests import examples
from tests.examples import assert_same

NAN, INF = np.nan, np.inf
REASON = ody.StopReason
STEPS = 5  # to an epoch


def state_of(x, scale=1.0, count=0):
    opt_state = (
        optax.ScaleByScheduleState(jnp.int32(count)),
        optax.TraceState({"w": jnp.full(2, x, jnp.float32)}),
        ody.scale_by_callback().init(None)._replace(scale=jnp.float32(scale)),
    )
    model_state = {"mean": jnp.float32(x), "seen": jnp.int32(count)}
    return ody.TrainState({"w": jnp.full(2, x, jnp.float32)}, model_state, opt_state)


def event(value, epoch, state):
    return ody.Event({"loss": jnp.float32(value)}, ody.Clock(epoch * 10, epoch), state)


def failure(step, epoch, state, loss=NAN):
    """A train step whose loss is not finite."""
    clock = ody.Clock(jnp.int32(step), jnp.int32(epoch))
    metrics = {"train/loss": jnp.float32(loss)}
    return ody.Event(metrics, clock, state, ody.Point.LOSS_NOT_FINITE)


@pytest.mark.parametrize(
    ("value", "parameter", "stops"),
    [(1, 1, False), (NAN, 1, True), (INF, 1, True), (1, NAN, True), (1, -INF, True)],
)
def test_terminate_on_nan(value, parameter, stops):
    guard = ody.terminate_on_nan("loss")
    _, signal = guard.update(guard.init(event(0, 0, None)), event(value, 3, state_of(parameter)))
    assert int(signal.stop) == (REASON.NOT_FINITE if stops else REASON.NONE)
    assert int(signal.detail) == (30 if stops else 0)


@pytest.mark.parametrize(
    ("monitor", "loss", "parameter", "stops"),
    [("train/loss", INF, 1, True), ("loss", NAN, 1, False), ("loss", NAN, NAN, True)],
)
def test_terminate_at_a_loss(monitor, loss, parameter, stops):
    """Updates that are left out keep the parameters, and then another metric decides."""
    guard = ody.terminate_on_nan(monitor)
    _, signal = guard.update(None, failure(17, 1, state_of(parameter), loss))
    assert (int(signal.stop), int(signal.detail)) == ((REASON.NOT_FINITE, 17) if stops else (0, 0))


def test_parameters_that_are_whole_numbers_are_finite():
    params = {"w": jnp.ones(2), "table": jnp.arange(3), "key": jax.random.key(0)}
    guard = ody.terminate_on_nan("loss")
    assert not guard.update(None, event(1.0, 0, ody.TrainState(params)))[1].stop


def follow(guard, epochs, scale=1.0):
    """Shows a guard epochs of (metric, parameter); the states that it leaves, and the reason."""
    state = guard.init(event(0, 0, state_of(0.0, scale)))
    left = []
    for epoch, (value, parameter) in enumerate(epochs):
        now = state_of(parameter, scale, count=epoch + 1)
        state, signal = guard.update(state, event(value, epoch, now))
        scale = signal.state.opt_state[2].scale
        left.append((float(signal.state.params["w"][0]), float(scale)))
        if signal.stop:
            break
    return left, REASON(int(signal.stop)), signal, state


def test_roll_back_goes_back_to_the_last_good_state_at_a_lower_rate():
    guard = ody.roll_back("loss", at_most=2)
    epochs = [(5, 1), (4, 2), (NAN, 3), (4, NAN), (3, 5), (INF, 6), (2, 7)]
    left, reason, signal, state = follow(guard, epochs)
    assert left == [(1, 1), (2, 1), (2, 0.5), (2, 0.25), (5, 0.25), (5, 0.125)]
    assert (reason, int(signal.detail)) == (REASON.NOT_FINITE, 50)
    assert guard.report(state) == {"rollbacks": 2, "rollback_step": 30}
    # All of the state is the good one's, but for the schedule's count and the scale.
    assert_same(signal.state, state_of(5.0, 0.125)._replace(
        model_state={"mean": jnp.float32(5), "seen": jnp.int32(5)},
        opt_state=(optax.ScaleByScheduleState(jnp.int32(6)), *state_of(5.0, 0.125).opt_state[1:]),
    ))  # fmt: skip


def test_with_no_good_epoch_it_goes_back_to_the_first_state():
    left, reason, _, _ = follow(ody.roll_back("loss"), [(NAN, 1), (NAN, 2), (5, 3)])
    assert (left, reason) == ([(0, 0.5), (0, 0.25), (3, 0.25)], REASON.NONE)


@pytest.mark.parametrize(
    ("options", "values", "bad"),
    [
        ({"divergence_threshold": 10}, [9, 11, 10], [1]),
        ({"divergence_factor": 3}, [4, 2, 6, 6.5, 7], [3, 4]),
        ({"divergence_factor": 3}, [4, 13, 12.5], [1, 2]),  # a bad value is not the best
        ({"divergence_factor": 1.5, "mode": "max"}, [0.5, 0.8, 0.45, 0.35], [3]),
        ({"divergence_factor": 1.5}, [NAN, 8, 12, 13], [0, 3]),
    ],
)
def test_roll_back_from_what_diverges(options, values, bad):
    guard = ody.roll_back("loss", factor=1, at_most=9, **options)
    left, reason, _, state = follow(guard, [(value, i + 1) for i, value in enumerate(values)])
    assert [i for i, (w, _) in enumerate(left) if w != i + 1] == bad
    assert (reason, int(state.rollbacks)) == (REASON.NONE, len(bad))


def test_what_goes_on_diverging_ends_the_run():
    guard = ody.roll_back("loss", at_most=1, divergence_factor=2)
    left, reason, signal, _ = follow(guard, [(1, 1), (3, 2), (4, 3), (1, 4)])
    assert left == [(1, 1), (1, 0.5), (1, 0.25)]
    assert REASON(reason).sentence(int(signal.detail)) == "diverged at step 20"


def test_in_a_scan_of_ones_own_with_wide_numbers():
    """Where epochs are counted in int64, the state's dtypes are what they were."""
    guard, now = ody.roll_back("loss", divergence_threshold=2.0), state_of(1.0)

    def step(state, at):
        epoch, value = at
        shown = ody.Event({"loss": value}, ody.Clock(epoch * 10, epoch), now)
        state, signal = guard.update(state, shown)
        return state, signal.stop

    with jax.enable_x64(True):
        epochs = jnp.arange(3)
        assert epochs.dtype == jnp.int64
        state = guard.init(event(0, 0, now))
        state, _ = jax.lax.scan(step, state, (epochs, jnp.array([1.0, 3.0, 1.0])))
    assert [int(x) for x in state.latest] == [10, 1]


def test_the_counts_of_a_real_optimizer_go_on():
    rate = optax.linear_schedule(1.0, 0.0, 100)
    made = optax.chain(
        optax.apply_if_finite(optax.adam(rate), 3),
        optax.inject_hyperparams(optax.sgd)(rate),
        ody.scale_by_callback(),
    )
    good = now = made.init(jnp.ones(2))
    with jax.numpy_dtype_promotion("standard"):
        for gradient in (1.0, NAN, 1.0):
            _, now = made.update(jnp.full(2, gradient), now, jnp.ones(2))
    back = with_counts_of(good, now)
    adam, schedule = back[0].inner_state
    assert (int(adam.count), int(schedule.count), int(back[0].total_notfinite)) == (0, 2, 1)
    assert int(back[1].count) == 3
    assert float(back[1].hyperparams["learning_rate"]) == float(rate(2))
    np.testing.assert_array_equal(adam.mu, 0)
    assert jax.tree.structure(back) == jax.tree.structure(good)


def test_the_schedule_of_a_decay_goes_on_too_and_what_acts_in_some_steps_only():
    decay = optax.add_decayed_weights(lambda count: 0.01 * count)
    made = optax.chain(
        decay,
        optax.conditionally_mask(optax.sgd(lambda count: 0.1), lambda step: step % 2 == 0),
        optax.conditionally_transform(optax.trace(0.9), lambda step: step % 2 == 0),
    )
    good = now = made.init(jnp.ones(2))
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(3):
            _, now = made.update(jnp.ones(2), now, jnp.ones(2))
    decayed, masked, transformed = with_counts_of(good, now)
    assert (int(decayed.count), int(masked.step), int(transformed.step)) == (3, 3, 3)
    assert int(masked.inner_state[1].count) == 2
    np.testing.assert_array_equal(transformed.inner_state.trace, 0)


def test_an_accumulation_goes_on_with_the_gradients_that_are_good():
    made = optax.MultiSteps(optax.sgd(lambda count: 0.1), 3).gradient_transformation()
    good = now = made.init(jnp.ones(2))
    with jax.numpy_dtype_promotion("standard"):
        for gradient in (1.0, 2.0, 1.0, NAN):
            _, now = made.update(jnp.full(2, gradient), now, jnp.ones(2))
    back = with_counts_of(good, now)
    assert (int(back.mini_step), int(back.gradient_step)) == (1, 1)
    assert int(back.inner_opt_state[1].count) == 1
    np.testing.assert_array_equal(back.acc_grads, 0)


def poison(at):
    """NaN for an update at step 12, once: its count goes on with the clock."""
    return jnp.where(at == 12, jnp.nan, 1.0)


def poisoned(rate):
    return optax.chain(
        optax.sgd(rate, momentum=0.9), optax.scale_by_schedule(poison), ody.scale_by_callback()
    )


GUARD = ody.roll_back()


def fit(epochs=5, callbacks=GUARD, optimizer=poisoned, train=None, **kwargs):
    train = examples.train_data() if train is None else train
    with jax.numpy_dtype_promotion("standard"):  # Optax's own
        return ody.fit(
            examples.linear_task(), optimizer, train, examples.valid_data(),
            epochs=epochs, learning_rate=0.5, writers=[], callbacks=callbacks, **kwargs,
        )  # fmt: skip


def test_a_run_rolls_back_and_its_history_says_so(tmp_path):
    result = fit(directory=tmp_path / "whole")
    history = result.history
    # The NaN of step 12 is seen by the loss of the step after it, the fourteenth.
    assert np.isfinite(history["train/loss"]).tolist() == [True, True, False, True, True]
    assert history["rollbacks"].tolist() == [0, 0, 1, 1, 1]
    assert history["rollback_step"].tolist() == [0, 0, 14, 14, 14]
    assert history["learning_rate"].tolist() == [0.5, 0.5, 0.25, 0.25, 0.25]
    assert (result.reason, result.steps) == ("completed all 5 epochs", 25)
    # Interrupted at each epoch and resumed, it is the same to the bit.
    _, two, three, _, last = (fit(epoch, directory=tmp_path / "parts") for epoch in range(1, 6))
    assert_same(last.carry, result.carry)
    assert_same(dict(last.history), dict(history))
    (momentum, _), poison, scale = three.state.opt_state
    assert_same((three.state.params, momentum), (two.state.params, two.state.opt_state[0][0]))
    assert (int(poison.count), float(scale.scale)) == (15, 0.5)


def test_a_run_that_is_not_saved_by_it_ends_with_the_last_good_state():
    guard = ody.roll_back(factor=1, at_most=2)
    result = fit(9, guard, late)
    assert (result.reason, result.epochs) == ("a metric or a parameter is not finite at step 22", 5)
    assert_same(result.state.params, fit(2, guard, late).state.params)
    assert result.history["rollbacks"].tolist() == [0, 0, 1, 2, 2]


def late(rate):
    return optax.chain(
        optax.sgd(rate), optax.scale_by_schedule(lambda at: jnp.where(at >= 12, jnp.nan, 1.0))
    )


@pytest.mark.parametrize("factor", [0.125, 1])
def test_beside_a_rule_that_follows_the_metric(factor):
    """The rule cuts twice by 2, and the rollback by its factor, whichever comes first."""
    rule = ody.reduce_on_plateau(0.5, 1, patience_rule="odyssey", nan="ignore")
    both = ody.chain(ody.roll_back("loss", factor=factor), ody.adapt_rate("loss", rule))
    state = both.init(event(0, 0, state_of(0.0)))
    scale, scales = 1.0, []
    for epoch, value in enumerate([3, 3, NAN, 3, NAN, 2]):
        now = state_of(float(epoch), scale)
        state, signal = both.update(state, event(value, epoch, now))
        scale = float(signal.state.opt_state[2].scale)
        scales.append(scale)
    once, twice = factor, factor**2
    assert scales == [1, 0.5, 0.5 * once, 0.25 * once, 0.25 * twice, 0.25 * twice]


def test_updates_that_are_skipped_are_counted_in_the_history():
    data = examples.arrays()
    x = np.where(np.arange(40)[:, None] == 20, np.float32(NAN), data["x"])
    train = ody.ArrayDataset({**data, "x": x}, 8)
    result = fit(3, ody.terminate_on_nan("valid/loss"), skip, train)
    assert result.history["skipped_updates"].tolist() == [1, 2, 3]
    assert np.isfinite(result.history["valid/loss"]).all()
    assert result.reason == "completed all 3 epochs"


def skip(rate):
    return optax.apply_if_finite(optax.sgd(rate), max_consecutive_errors=2)


def test_members_of_a_population_roll_back_by_themselves():
    guard = ody.roll_back("loss")
    epochs = np.float32([[5, 5], [NAN, 4], [3, 3], [NAN, NAN]])
    first = event(0, 0, state_of(0.0))
    many = jax.vmap(lambda _: guard.init(first))(jnp.arange(2))
    state = jax.tree.map(lambda x: jnp.stack([x, x]), state_of(1.0))
    step = jax.jit(jax.vmap(lambda s, t, v, e: guard.update(s, event(v, e, t)), (0, 0, 0, None)))
    for epoch, values in enumerate(epochs):
        many, signal = step(many, state, values, epoch)
        state = signal.state
    assert many.rollbacks.tolist() == [2, 1]
    assert state.opt_state[2].scale.tolist() == [0.25, 0.5]


def test_max_steps():
    budget = ody.max_steps(25)
    stops = [int(budget.update(None, event(0, i, None))[1].stop) for i in range(5)]
    assert stops == [0, 0, 0, REASON.MAX_STEPS, REASON.MAX_STEPS]
    assert REASON.MAX_STEPS.sentence(30) == "completed all 30 steps"


def test_what_two_callbacks_report_is_refused():
    with pytest.raises(ValueError, match="two callbacks add .*'rollbacks' to the history, the s"):
        fit(callbacks=ody.chain(ody.roll_back(), ody.roll_back("valid/loss")))
    with pytest.raises(ValueError, match="a callback adds .'train/loss'. to the metrics"):
        fit(callbacks=Reports())


class Reports:
    points = (ody.Point.EPOCH_END,)

    def init(self, event):
        return jnp.zeros(())

    def update(self, state, event):
        return state, ody.Signal.none()

    def report(self, state):
        return {"train/loss": state}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ody.roll_back(factor=0), r"factor must be in the range \(0, 1\], got 0"),
        (lambda: ody.roll_back(factor=1.5), r"factor must be in the range \(0, 1\], got 1.5"),
        (lambda: ody.roll_back(at_most=0), "at_most must be an integer of at least 1, got 0"),
        (lambda: ody.roll_back(divergence_factor=1), "divergence_factor must be finite and great"),
        (lambda: ody.roll_back(divergence_threshold=NAN), "divergence_threshold must be a finite"),
        (lambda: ody.roll_back(mode="low"), "mode must be 'min' or 'max', got 'low'"),
        (lambda: ody.terminate_on_nan(None), "monitor must be a metric's name"),
        (lambda: ody.max_steps(0), "steps must be an integer of at least 1, got 0"),
        (
            lambda: fit(optimizer=optax.sgd),
            r"roll_back finds no scale to lower.*put scale_by_callback\(\) behind",
        ),
        (lambda: fit(callbacks=ody.terminate_on_nan("loss")), "no metric 'loss'; the scalar"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
