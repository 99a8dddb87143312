"""Groups of parameters, momentum, traced rates, functions, and metric-driven schedules in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.compat import keras, timm, torch, transformers
from odyssey_jax.schedules import Schedule


def values(schedule, steps=40):
    return np.asarray(schedule(np.arange(steps)))


def test_it_is_reachable_from_the_top():
    assert ody.compat.torch.StepLR is torch.StepLR


@pytest.mark.parametrize(
    "build",
    [
        lambda lr: torch.StepLR(lr, step_size=3),
        lambda lr: torch.OneCycleLR(lr, max_lr=0.3, total_steps=20),
        lambda lr: torch.SWALR(lr, swa_lr=0.05),
        lambda lr: transformers.get_wsd_schedule(lr, 3, 5, 20),
        lambda lr: timm.TanhLRScheduler(lr, t_initial=20, warmup_t=3),
        lambda lr: torch.ChainedScheduler(
            lr, [torch.ConstantLR(lr, 0.5, 4), torch.ExponentialLR(lr, 0.9)]
        ),
        lambda lr: torch.SequentialLR(
            lr, [torch.LinearLR(lr, 0.1, total_iters=4), torch.StepLR(lr, 3)], [4]
        ),
    ],
)
def test_a_sequence_of_rates_gives_a_tuple_of_schedules(build):
    groups = build([0.4, 0.1])
    assert isinstance(groups, tuple)
    np.testing.assert_array_equal(values(groups[0]), values(build(0.4)))
    assert build([0.4])[0] == groups[0]


MULTIPLY = {
    "step": lambda lr: torch.StepLR(lr, 3),
    "step by 0": lambda lr: torch.StepLR(lr, 9, gamma=0.0),
    "multistep": lambda lr: torch.MultiStepLR(lr, [4, 8]),
    "exponential": lambda lr: torch.ExponentialLR(lr, 0.9),
    "constant": lambda lr: torch.ConstantLR(lr, 0.5, 4),
    "polynomial": lambda lr: torch.PolynomialLR(lr, 20, 2.0),
    "function": lambda lr: torch.MultiplicativeLR(lr, lambda t: 0.9),
    "cosine": lambda lr: torch.CosineAnnealingLR(lr, 10),
    "chain": lambda lr: torch.ChainedScheduler(lr, [torch.StepLR(lr, 3), torch.LinearLR(lr)]),
}


@pytest.mark.parametrize("rates", [0.4, [0.4, 0.1]])
@pytest.mark.parametrize("name", MULTIPLY)
def test_the_rate_of_a_chain_shows_in_its_schedulers(name, rates):
    both = [torch.LinearLR(rates, 0.25, total_iters=6), MULTIPLY[name](rates)]
    without = torch.ChainedScheduler(schedulers=both)
    want = torch.ChainedScheduler(rates, both)
    if rates == 0.4:
        without, want = (without,), (want,)
    for ours, given in zip(without, want, strict=True):
        np.testing.assert_array_equal(values(ours), values(given))


@pytest.mark.parametrize("rates", [0.4, [0.4, 0.1]])
def test_a_sequence_needs_no_rate(rates):
    both = [torch.LinearLR(rates, 0.1, total_iters=4), torch.StepLR(rates, 3)]
    assert torch.SequentialLR(schedulers=both, milestones=[4]) == (
        torch.SequentialLR(rates, both, [4])
    )


def test_a_rate_that_is_traced_may_be_left_out():
    def value(lr, **given):
        chain = [torch.ConstantLR(lr, 0.5, 4), torch.StepLR(lr, 3)]
        return torch.ChainedScheduler(schedulers=chain, **given)(5)

    np.testing.assert_allclose(jax.jit(value)(0.4), value(0.4, base_lr=0.4), rtol=1e-6)


def test_a_value_for_each_group_must_be_as_many():
    with pytest.raises(ValueError, match="max_lr must have one value for each group"):
        torch.OneCycleLR(base_lr=[0.1, 0.2], max_lr=[1.0, 1.0, 1.0], total_steps=10)


def test_momentum_is_there_where_it_is_cycled():
    one = torch.OneCycleLR(base_lr=0.1, max_lr=1.0, total_steps=11, pct_start=0.5)
    np.testing.assert_allclose([one.momentum(t) for t in (0, 10)], [0.95, 0.95], rtol=1e-6)
    assert Schedule.from_json(one.to_json()).momentum == one.momentum
    without = torch.OneCycleLR(base_lr=0.1, max_lr=1.0, total_steps=11, cycle_momentum=False)
    assert not hasattr(without, "momentum")
    optax.inject_hyperparams(optax.sgd)(one, momentum=one.momentum)


def test_a_sweep_of_rates_is_one_program():
    def last(lr):
        return torch.CosineAnnealingLR(base_lr=lr, T_max=10)(jnp.int32(5))

    rates = jnp.linspace(0.1, 1.0, 10)
    np.testing.assert_allclose(jax.vmap(last)(rates), rates / 2, rtol=1e-6)
    assert jax.grad(lambda lr: torch.StepLR(base_lr=lr, step_size=2, gamma=0.5)(2))(1.0) == 0.5
    traced = jax.jit(lambda lr, w: transformers.get_cosine_schedule_with_warmup(lr, w, 30)(7))
    want = transformers.get_cosine_schedule_with_warmup(0.8, 4, 30)(7)
    np.testing.assert_allclose(traced(0.8, 4), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "values"),
    [
        (lambda n: torch.OneCycleLR(base_lr=0.1, max_lr=0.3, total_steps=n), range(90, 111)),
        (lambda w: timm.CosineLRScheduler(base_lr=0.1, t_initial=50, warmup_t=w), range(6)),
        (lambda w: timm.StepLRScheduler(base_lr=0.1, decay_t=5, warmup_t=w), range(6)),
        (lambda w: timm.PolyLRScheduler(base_lr=0.1, t_initial=50, warmup_t=w), range(6)),
    ],
)
def test_a_sweep_of_lengths_is_one_program(build, values):
    traces = 0

    @jax.jit
    def run(schedule, step):
        nonlocal traces
        traces += 1
        return schedule(step)

    for value in values:
        run(build(value), jnp.int32(7))
    assert traces == 1


def test_a_rate_outside_its_bounds_stays_where_it_is():
    for scheduler in (
        torch.ReduceLROnPlateau(base_lr=0.1, min_lr=0.5, patience=0),
        keras.ReduceLROnPlateau(base_lr=0.1, min_lr=0.5, patience=1),
    ):
        state = scheduler.init()
        for _ in range(5):
            state = scheduler.update(state, 1.0)
        assert scheduler.lr(state) == np.float32(0.1)


def test_a_function_may_be_any_python():
    def factor(epoch):
        assert type(epoch) is int
        return float(epoch**9 % 7) if epoch > 3 else [1, 0, 2, 5][epoch]

    schedule = torch.LambdaLR(base_lr=0.5, lr_lambda=factor)
    want = [0.5 * factor(t) for t in range(3_000)]
    np.testing.assert_allclose(values(schedule, 3_000), want)
    scanned = jax.jit(lambda: jax.lax.scan(lambda c, t: (c, schedule(t)), 0, jnp.arange(20))[1])
    np.testing.assert_allclose(scanned(), want[:20])


def test_a_schedule_of_ours_may_be_the_function():
    schedule = torch.LambdaLR(base_lr=0.5, lr_lambda=ody.linear(1.0, 0.0, 10))
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert schedule(5) == 0.25


def test_products_in_any_order_of_steps():
    schedule = torch.MultiplicativeLR(base_lr=2.0, lr_lambda=lambda t: 1 + 1 / t)  # t + 1 in all
    for step in (2_500, 3, 1_000, 999, 2_501, 0):
        np.testing.assert_allclose(schedule(step), 2.0 * (step + 1), rtol=1e-5)


def test_keras_function_of_the_epoch_and_the_rate():
    two = keras.LearningRateScheduler(base_lr=1.0, schedule=lambda epoch, lr: lr * 0.5)
    np.testing.assert_allclose(values(two, 5), 0.5 ** np.arange(1, 6))
    one = keras.LearningRateScheduler(base_lr=1.0, schedule=lambda epoch: 0.1 * epoch)
    np.testing.assert_allclose(values(one, 5), 0.1 * np.arange(5), rtol=1e-6)


def test_averaging_goes_on_from_the_rate_it_finds():
    decay = torch.ExponentialLR(base_lr=1.0, gamma=0.5)
    swa = torch.SWALR(base_lr=1.0, swa_lr=0.2, anneal_epochs=4, anneal_strategy="linear")
    both = torch.SequentialLR(base_lr=1.0, schedulers=[decay, swa], milestones=[3])
    np.testing.assert_allclose(values(both, 8), [1, 0.5, 0.25, 0.25, 0.2375, 0.225, 0.2125, 0.2])


PLATEAUS = {
    "torch": lambda lr: torch.ReduceLROnPlateau(lr, patience=1, factor=0.5),
    "timm": lambda lr: timm.PlateauLRScheduler(lr, patience_t=1, mode="min", warmup_t=2),
    "greedy": lambda lr: transformers.GreedyLR(lr, patience=1, factor=0.5),
    "keras": lambda lr: keras.ReduceLROnPlateau(lr, patience=1),
}


@pytest.mark.parametrize("name", PLATEAUS)
def test_metric_driven_ones_run_inside_a_program(name):
    schedule = PLATEAUS[name](0.1)
    metrics = jnp.asarray([3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0])

    def step(state, value):
        state = schedule.update(state, value)
        return state, schedule.lr(state)

    compiled = jax.jit(lambda: jax.lax.scan(step, schedule.init(), metrics))()[1]
    state, eager = schedule.init(), []
    for value in metrics:
        state = schedule.update(state, value)
        eager.append(float(schedule.lr(state)))
    np.testing.assert_allclose(compiled, eager)
    assert len(set(eager)) > 1
    groups = PLATEAUS[name]([0.1, 0.2])
    assert len(groups) == 2
    np.testing.assert_allclose(groups[1].lr(groups[1].init()), 2 * schedule.lr(schedule.init()))


def test_timm_noise_is_a_value():
    noise = timm.timm_noise(begin=2, end=9, std=0.5, seed=7)
    assert Schedule.from_json(noise.to_json()) == noise
    drawn = values(noise, 12)
    assert (drawn[:2] == 1).all()
    assert (drawn[9:] == 1).all()
    assert (np.abs(drawn[2:9] - 1) < 0.67).all()
    assert len(set(drawn.tolist())) == 8
