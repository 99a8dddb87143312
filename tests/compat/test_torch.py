"""PyTorch's schedulers: the curves of the real ones, compositions, functions, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax import constant
from odyssey_jax.compat import torch
from odyssey_jax.schedules import Schedule
from tests.compat.compare import check, run, values


@pytest.mark.parametrize("curve", run("torch."), ids=lambda curve: curve["id"])
def test_the_peer_and_ours_agree(curve):
    check(curve)


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


def test_a_cosine_of_more_than_half_of_all_steps_renews_what_is_on_top_of_it():
    steps = 2**30 + 5  # twice that is no int32
    cosine = torch.CosineAnnealingLR(1.0, steps)
    chain = torch.ChainedScheduler(1.0, [cosine, torch.StepLR(1.0, 2**29, 0.5)])
    at = np.asarray([0, 2**29, steps + 2**28, 3 * 2**29])
    np.testing.assert_allclose(chain(at) / cosine(at), [1.0, 0.5, 1.0, 0.5], rtol=1e-6)


def test_momentum_is_there_where_it_is_cycled():
    one = torch.OneCycleLR(base_lr=0.1, max_lr=1.0, total_steps=11, pct_start=0.5)
    np.testing.assert_allclose([one.momentum(t) for t in (0, 10)], [0.95, 0.95], rtol=1e-6)
    assert Schedule.from_json(one.to_json()).momentum == one.momentum
    without = torch.OneCycleLR(base_lr=0.1, max_lr=1.0, total_steps=11, cycle_momentum=False)
    assert not hasattr(without, "momentum")
    optax.inject_hyperparams(optax.sgd)(one, momentum=one.momentum)


def test_a_function_may_be_any_python():
    def factor(epoch):
        assert type(epoch) is int
        return float(epoch**9 % 7) if epoch > 3 else [1, 0, 2, 5][epoch]

    schedule = torch.LambdaLR(base_lr=0.5, lr_lambda=factor)
    want = [0.5 * factor(t) for t in range(3_000)]
    np.testing.assert_allclose(values(schedule, range(3_000)), want)
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


def test_averaging_goes_on_from_the_rate_it_finds():
    decay = torch.ExponentialLR(base_lr=1.0, gamma=0.5)
    swa = torch.SWALR(base_lr=1.0, swa_lr=0.2, anneal_epochs=4, anneal_strategy="linear")
    both = torch.SequentialLR(base_lr=1.0, schedulers=[decay, swa], milestones=[3])
    np.testing.assert_allclose(
        values(both, range(8)), [1, 0.5, 0.25, 0.25, 0.2375, 0.225, 0.2125, 0.2]
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: torch.StepLR(0.1, step_size=0), "step_size must be a whole number of at least 1"),
        (lambda: torch.StepLR(0.1, step_size=2.5), "got step_size = 2.5"),
        (lambda: torch.StepLR(0.1, step_size=3, last_epoch=4), "last_epoch must be -1"),
        (lambda: torch.ConstantLR(0.1, factor=1.5), "got factor = 1.5"),
        (lambda: torch.LinearLR(0.1, start_factor=0.0), "got start_factor = 0.0"),
        (lambda: torch.LinearLR(0.1, end_factor=1.1), "got end_factor = 1.1"),
        (lambda: torch.CosineAnnealingWarmRestarts(0.1, T_0=0), "T_0 must be a positive integer"),
        (lambda: torch.CosineAnnealingWarmRestarts(0.1, T_0=3, T_mult=0.5), "got T_mult = 0.5"),
        (lambda: torch.OneCycleLR(0.1, max_lr=1.0), "total_steps, or epochs and steps_per_epoch"),
        (lambda: torch.OneCycleLR(0.1, 1.0, total_steps=5, pct_start=1.5), "got pct_start = 1.5"),
        (lambda: torch.OneCycleLR(0.1, 1.0, 5, anneal_strategy="cosine"), "'cos' or 'linear'"),
        (lambda: torch.OneCycleLR(0.1, 1.0, total_steps=5.0), "got total_steps = 5.0"),
        (lambda: torch.CyclicLR(0.1, 1.0, mode="square"), "got mode = 'square'"),
        (lambda: torch.SWALR(0.1, swa_lr=0.1, anneal_epochs=-1), "got anneal_epochs = -1"),
        (
            lambda: torch.SWALR(0.1, swa_lr=0.1, anneal_strategy="exp"),
            "got anneal_strategy = 'exp'",
        ),
        (lambda: torch.SequentialLR(0.1, [constant(0.1)], [3]), "too many"),
        (lambda: torch.SequentialLR(0.1, [], []), "at least one"),
        (
            lambda: torch.SequentialLR(0.1, [torch.ReduceLROnPlateau(0.1)], []),
            "not one that a metric",
        ),
        (lambda: torch.SequentialLR([0.1, 0.2], [constant(0.1)], []), "built with base_lr"),
        (lambda: torch.SequentialLR(), "schedulers must be a sequence of at least one"),
        (lambda: torch.SequentialLR(schedulers=[constant(0.1)] * 2), "boundaries"),
        (lambda: torch.SequentialLR([constant(0.1)], [3]), r"by name, schedulers=\[\.\.\.\]; got"),
        (
            lambda: torch.SequentialLR(0.2, [constant(0.1), torch.StepLR(0.1, 3)], [3]),
            r"schedulers\[1\] must have been built with the same base_lr as the others, 0\.2",
        ),
        (
            lambda: torch.SequentialLR(schedulers=[torch.StepLR([0.1, 0.2], 3), constant(0.1)]),
            r"schedulers\[1\] must have been built with 2 rates",
        ),
        (
            lambda: torch.ChainedScheduler(
                0.2, [torch.ConstantLR(0.1), torch.ExponentialLR(0.1, 0.9)]
            ),
            "the same base_lr as the others, 0.2",
        ),
        (
            lambda: torch.ChainedScheduler(
                schedulers=[torch.StepLR(0.1, 3), torch.ExponentialLR(0.2, 0.9)]
            ),
            r"schedulers\[1\] must have been built with the same base_lr as the others, 0\.1",
        ),
        (
            lambda: torch.ChainedScheduler(schedulers=[torch.LinearLR(0.1), torch.LinearLR(0.1)]),
            "base_lr must be given where no scheduler shows",
        ),
        (lambda: torch.ChainedScheduler(0.1, []), "at least one"),
        (
            lambda: torch.ChainedScheduler(
                0.1, [torch.LambdaLR(0.1, lambda t: 1.0), torch.StepLR(0.1, 3)]
            ),
            "does not multiply",
        ),
        (lambda: torch.LambdaLR(0.1, lr_lambda=0.5), "lr_lambda must be a function"),
        (lambda: torch.LambdaLR([0.1, 0.2], lr_lambda=[abs]), "has 2, lr_lambda has 1"),
        (lambda: torch.ReduceLROnPlateau(0.1, factor=1.0), "factor"),
        (lambda: torch.ReduceLROnPlateau(0.1, mode="best"), "mode"),
        (
            lambda: torch.ReduceLROnPlateau(0.1, threshold_mode="both"),
            "got threshold_mode = 'both'",
        ),
        (lambda: torch.ReduceLROnPlateau([0.1, 0.2], min_lr=[0.1]), "min_lr has 1"),
    ],
)
def test_what_the_peer_refuses_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
