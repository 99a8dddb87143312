"""Guards within an epoch: at the very step, wherever the run is cut, each member by itself."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import odyssey_jax as ody
from odyssey_jax.train import init_compiled
from tests import examples
from tests.examples import assert_same

NAN = np.nan
REASON = ody.StopReason
ROLL_BACK = ody.roll_back()


@functools.partial(jax.tree_util.register_dataclass, data_fields=["at", "again"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class NanAt:
    """A learning rate that is NaN for one update or two, from which on the parameters are."""

    at: jax.Array | int
    again: jax.Array | int = 999

    def __call__(self, update):
        return jnp.where((update == self.at) | (update == self.again), jnp.nan, 0.1)


@pytest.fixture(autouse=True)
def standard_promotion():
    """As Optax's accumulation has it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def optimizer(rate):
    return optax.chain(
        optax.trace(0.9), optax.scale_by_learning_rate(rate), ody.scale_by_callback()
    )


def data(batch_size=2, **kwargs):
    """Of 20 train steps to an epoch, in two blocks."""
    return ody.ArrayDataset(examples.arrays(), batch_size, shuffle=True, **kwargs)


def make(callbacks, at, train=None, **kwargs):
    """A loop, its inputs and a function for a carry to begin with."""
    task = examples.linear_task()
    callbacks = ody.chain(ody.callbacks.log(8), callbacks)
    loop = examples.make_loop(task, optimizer, callbacks=callbacks, **kwargs)
    inputs = ody.train.Inputs(train or data(), examples.valid_data(), NanAt(at))
    key = jax.random.key(0)
    return loop, inputs, lambda: init_compiled(loop, key, *task.init(key), inputs)


def fit(callbacks, at, **kwargs):
    return ody.fit(
        examples.linear_task(), optimizer, data(), examples.valid_data(), epochs=3,
        learning_rate=NanAt(at), writers=[], callbacks=callbacks, **kwargs,
    )  # fmt: skip


ODD = {"train": data(7)}  # five whole batches and one of 5 examples to a pass


@pytest.mark.parametrize(
    ("at", "kwargs", "failed", "steps", "epochs"),
    [
        (24, {}, 26, 30, 1),
        (29, {}, 31, 40, 2),  # the last update of a block is seen in the next
        (18, {}, 20, 20, 1),  # the last loss of an epoch
        (19, {}, 20, 20, 1),  # by the parameters at its end: there is no loss of them yet
        (7, {"accumulate_steps": 4}, 33, 40, 2),  # the update after 32 steps
        (11, {"steps_per_epoch": 7, "average": ody.exponential_average(0.5)}, 13, 13, 1),
        (8, ODD, 10, 11, 1),
        (10, ODD, 12, 12, 2),  # the loss of the smaller batch
    ],
)
def test_it_ends_at_the_step_whose_loss_is_not_finite(at, kwargs, failed, steps, epochs):
    kept = {"log_every_n_steps": 1, "log_outputs": ["loss"], "sample_capacity": 60}
    loop, inputs, fresh = make(ody.terminate_on_nan(), at, **kept, **kwargs)
    carry = ody.train.run_compiled(loop, fresh(), inputs, 60)
    signal, history = carry.signal, carry.callbacks[0]
    assert (int(signal.stop), int(signal.detail)) == (REASON.NOT_FINITE, failed)
    assert [int(x) for x in (*carry.clock, history.length)] == [steps, epochs, epochs]
    bad = 1 + np.flatnonzero(~np.isfinite(carry.samples["loss"][:steps]))
    assert bad.tolist() == ([] if at == 19 else [*range(failed, steps + 1)])


def test_the_first_loss_is_a_mistake_in_the_set_up_all_the_same():
    nothing = {**examples.arrays(), "x": np.full((40, 4), np.float32(NAN))}
    loop, inputs, fresh = make(ROLL_BACK, 99, ody.ArrayDataset(nothing, 2))
    carry = ody.train.run_compiled(loop, fresh(), inputs, 60)
    assert int(carry.signal.stop) == REASON.FIRST_LOSS_NOT_FINITE
    assert int(carry.callbacks[1].rollbacks) == 0


def test_a_first_loss_that_is_not_finite_ends_the_run_at_the_same_step_whatever_the_limit():
    nothing = {**examples.arrays(), "x": np.full((40, 4), np.float32(NAN))}
    loop, inputs, fresh = make(ody.max_steps(999), 99, ody.ArrayDataset(nothing, 2))
    whole, cut = (ody.train.run_compiled(loop, fresh(), inputs, limit) for limit in (60, 10))
    assert (int(whole.signal.stop), int(whole.clock.step)) == (REASON.FIRST_LOSS_NOT_FINITE, 10)
    assert_same(cut, whole)


def test_a_run_that_ended_within_an_epoch_stays_ended(tmp_path):
    result, again = (fit(ody.terminate_on_nan(), 24, directory=tmp_path) for _ in range(2))
    assert_same(again.carry, result.carry)
    reason = "a metric or a parameter is not finite at step 26"
    assert (again.steps, again.reason) == (30, result.reason) == (30, reason)
    assert len(result.history["epoch"]) == 1


def test_it_goes_back_at_once_and_the_clock_goes_on():
    loop, inputs, fresh = make(ROLL_BACK, at=24)
    good = jax.device_get(ody.train.run_compiled(loop, fresh(), inputs, 20).state)
    back = ody.train.run_compiled(loop, fresh(), inputs, 30)
    scale = good.opt_state[2]._replace(scale=np.float32(0.5))
    count = good.opt_state[1]._replace(count=np.int32(30))
    expected = good._replace(opt_state=(good.opt_state[0], count, scale))
    assert_same(jax.device_get(back.state), expected)
    guard = back.callbacks[1]
    assert_same(jax.device_get(guard.good), good)
    assert (int(guard.rollbacks), [int(x) for x in guard.latest]) == (1, [26, 1])
    # The rest of the epoch is trained, and judged by what is still finite.
    after = ody.train.run_compiled(loop, back, inputs, 60)
    history = {name: x[:3].tolist() for name, x in after.callbacks[0].metrics.items()}
    assert np.isfinite(history["train/loss"]).tolist() == [True, False, True]
    assert np.isfinite(history["valid/loss"]).all()
    assert (history["rollbacks"], history["rollback_step"]) == ([0, 1, 1], [0, 26, 26])
    assert_same(after.callbacks[1].good.params, after.state.params)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        ODD,
        {"accumulate_steps": 3, "clip_norm": 1.0, "average": ody.exponential_average(0.9)},
    ],
)
def test_wherever_it_is_cut_the_result_is_the_same_to_the_bit(kwargs):
    loop, inputs, fresh = make(ROLL_BACK, at=8, **kwargs)
    whole = ody.train.run_compiled(loop, fresh(), inputs, 60)
    assert int(whole.callbacks[1].rollbacks) == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(whole.state.params))
    carry = fresh()
    for limit in range(0, 61, 3):
        carry = ody.train.run_compiled(loop, carry, inputs, limit)
    assert_same(carry, whole)


def test_a_resume_within_the_epoch_is_the_same_to_the_bit(tmp_path):
    saving = ody.checkpoint(ody.every(steps=10), keep_last=None)
    run = functools.partial(fit, ody.chain(ROLL_BACK, saving), 24, directory=tmp_path)
    whole = run()
    again = run(resume=30)
    assert_same(again.carry, whole.carry)
    assert_same(dict(again.history), dict(whole.history))


def member_of(tree, i):
    return jax.tree.leaves(jax.tree.map(lambda x: x[i], tree))


def test_members_go_back_and_end_each_at_its_own_step():
    task, guard = examples.linear_task(), ody.roll_back(at_most=1)
    at, again = [99, 24, 3, 26], [99, 99, 18, 47]
    loop = examples.make_loop(task, optimizer, callbacks=ody.chain(ody.callbacks.log(8), guard))
    rates = NanAt(jnp.array(at), jnp.array(again))
    inputs = ody.train.Inputs(data(), examples.valid_data(), rates)
    keys = jax.random.split(jax.random.key(0), len(at))
    many = ody.train.population(loop, task)
    run = jax.jit(many.run)
    carry = jax.jit(many.init)(keys, inputs)
    for limit in (30, 60):
        carry = run(carry, inputs, limit)
    assert carry.callbacks[1].latest.step.tolist() == [0, 26, 5, 28]
    assert carry.signal.detail.tolist() == [0, 0, 20, 49]
    parts = (carry.state, carry.signal, carry.callbacks)
    for i, key in enumerate(keys):
        member = inputs._replace(learning_rate=NanAt(at[i], again[i]))
        alone = init_compiled(loop, key, *task.init(key), member)
        alone = ody.train.run_compiled(loop, alone, member, 60)
        of_one = jax.tree.leaves((alone.state, alone.signal, alone.callbacks))
        for x, y in zip(member_of(parts, i), of_one, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_a_callback_of_ones_own_hears_of_the_step_of_its_own_member():
    hear = lambda steps, event: (steps + event.clock.step + 1, ody.Signal.none())
    hearing = ody.callback(lambda _: jnp.int32(0), hear, [ody.Point.LOSS_NOT_FINITE])
    task = examples.linear_task()
    many = ody.train.population(examples.make_loop(task, optimizer, callbacks=hearing), task)
    inputs = ody.train.Inputs(data(), None, NanAt(jnp.array([36, 99]), jnp.array([99, 99])))
    carry = jax.jit(many.init)(jax.random.split(jax.random.key(0)), inputs)
    carry = jax.jit(many.run)(carry, inputs, 60)
    # Nobody ends it: once in each block that has such a step.
    assert carry.callbacks[0].tolist() == [39 + 42 + 52, 0]


# Against an oracle: metrics of epochs' ends and failures within, in any order.


def state_of(x, scale=1.0):
    params = {"w": jnp.float32(x)}
    scaling = ody.scale_by_callback().init(params)._replace(scale=jnp.float32(scale))
    return ody.TrainState(params, None, (scaling,))


def oracle(events, at_most, threshold):
    """Yields the parameter and the scale after each event, until it gives up."""
    now = good = 0.0
    scale, rollbacks, epoch, gone_back_in = 1.0, 0, 0, -1
    for number, (value, parameter) in enumerate(events):
        now = parameter if np.isfinite(parameter) else now
        if value is None:  # a loss
            bad = True
        else:
            spoilt = gone_back_in == epoch and np.isfinite(parameter) and not np.isfinite(value)
            bad = not spoilt and not (np.isfinite([value, parameter]).all() and value <= threshold)
        if bad:
            now = good
            scale *= 0.5
            yield number, now, scale, rollbacks >= at_most
            if rollbacks >= at_most:
                return
            rollbacks, gone_back_in = rollbacks + 1, epoch
        else:
            if np.isfinite(value):
                good = now
            yield number, now, scale, False
        epoch += value is not None


VALUES = st.sampled_from([None, None, 1.0, 2.0, 8.0, NAN, np.inf])


@given(
    st.lists(st.tuples(VALUES, st.sampled_from([1.0, 2.0, 3.0, NAN])), max_size=12),
    st.integers(1, 3),
)
@settings(max_examples=60)
def test_any_sequence_as_the_oracle_has_it(events, at_most):
    guard = ody.roll_back("train/loss", at_most=at_most, divergence_threshold=5.0)
    at = lambda point, value, state, step, epoch: ody.Event(
        {"train/loss": jnp.float32(value)},
        ody.Clock(jnp.int32(step), jnp.int32(epoch)),
        state,
        point,
    )
    state = guard.init(at(ody.Point.EPOCH_END, 0.0, state_of(0.0), 0, 0))
    epoch, scale = 0, 1.0
    for number, parameter, expected_scale, gives_up in oracle(events, at_most, 5.0):
        value, now = events[number]
        point = ody.Point.LOSS_NOT_FINITE if value is None else ody.Point.EPOCH_END
        shown = at(point, NAN if value is None else value, state_of(now, scale), number + 1, epoch)
        state, signal = UPDATE(guard, state, shown)
        scale = float(signal.state.opt_state[0].scale)
        assert (float(signal.state.params["w"]), scale) == (parameter, expected_scale)
        assert bool(signal.stop) == gives_up
        epoch += value is not None


UPDATE = jax.jit(lambda guard, state, event: guard.update(state, event), static_argnums=0)
