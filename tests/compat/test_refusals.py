"""What the peers refuse, and what could only be ignored here."""

import pytest

from odyssey_jax import constant
from odyssey_jax.compat import keras, timm, torch, transformers

REFUSED = [
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
    (lambda: torch.SWALR(0.1, swa_lr=0.1, anneal_strategy="exp"), "got anneal_strategy = 'exp'"),
    (lambda: torch.SequentialLR(0.1, [constant(0.1)], [3]), "too many"),
    (lambda: torch.SequentialLR(0.1, [], []), "at least one"),
    (lambda: torch.SequentialLR(0.1, [torch.ReduceLROnPlateau(0.1)], []), "not one that a metric"),
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
        lambda: torch.ChainedScheduler(0.2, [torch.ConstantLR(0.1), torch.ExponentialLR(0.1, 0.9)]),
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
    (lambda: torch.ReduceLROnPlateau(0.1, threshold_mode="both"), "got threshold_mode = 'both'"),
    (lambda: torch.ReduceLROnPlateau([0.1, 0.2], min_lr=[0.1]), "min_lr has 1"),
    (lambda: transformers.GreedyLR(0.1, factor=1.0), "factor"),
    (lambda: transformers.get_scheduler("square", 0.1), "got name = 'square'"),
    (lambda: transformers.get_scheduler("linear", 0.1), "given for 'linear'"),
    (
        lambda: transformers.get_polynomial_decay_schedule_with_warmup(0.1, 1, 9, lr_end=0.2),
        "lr_end must be less than base_lr",
    ),
    (
        lambda: transformers.get_cosine_with_min_lr_schedule_with_warmup(0.1, 1, 9),
        "min_lr or min_lr_rate must be given",
    ),
    (
        lambda: transformers.get_cosine_with_min_lr_schedule_with_warmup(
            0.1, 1, 9, min_lr=0.0, min_lr_rate=0.1
        ),
        "and not both",
    ),
    (lambda: transformers.get_wsd_schedule(0.1, 1, 9), "must be given"),
    (lambda: transformers.get_wsd_schedule(0.1, 1, 9, 20, decay_type="exp"), "got decay_type"),
    (lambda: timm.CosineLRScheduler(0.1, t_initial=0), "got t_initial = 0"),
    (lambda: timm.PolyLRScheduler(0.1, t_initial=5, lr_min=-1.0), "got lr_min = -1.0"),
    (lambda: timm.TanhLRScheduler(0.1, t_initial=5, lb=3.0, ub=3.0), "lb must be less than ub"),
    (lambda: timm.WSDLRScheduler(0.1, t_initial=5, decay_t=6), "got decay_t = 6"),
    (lambda: timm.WSDLRScheduler(0.1, 5, 2, stable_fn="rsqrt"), "where there is no warm-up"),
    (lambda: timm.WSDLRScheduler(0.1, 5, 2, decay_ratio=1.0), "got decay_ratio = 1.0"),
    (lambda: timm.WSDLRScheduler(0.1, 5, 2, decay_fn="tanh"), "got decay_fn = 'tanh'"),
    (lambda: keras.CosineDecay(0.1, decay_steps=0), "got decay_steps = 0"),
    (lambda: keras.PiecewiseConstantDecay([1, 2], [0.1, 0.2]), "boundaries"),
    (lambda: keras.PiecewiseConstantDecay([], [0.1]), "at least one step"),
    (lambda: keras.ReduceLROnPlateau(0.1, factor=1.0), "factor"),
    (lambda: keras.ReduceLROnPlateau(0.1, monitor="accuracy"), "got monitor = 'accuracy'"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_what_a_peer_refuses_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: torch.StepLR(0.1, step_size=3, verbose=True), "verbose"),
        (lambda: timm.StepLRScheduler(0.1, decay_t=3, initialize=True), "initialize"),
        (lambda: keras.CosineDecay(0.1, decay_steps=3, name="CosineDecay"), "name"),
        (lambda: transformers.GreedyLR(0.1, verbose=True), "verbose"),
        (lambda: torch.StepLR(0.1, step_size=3, optimizer=None), "optimizer"),
    ],
)
def test_what_has_no_meaning_here_is_refused(build, name):
    with pytest.raises(TypeError, match=name):
        build()


def test_two_lengths_of_the_stable_phase_are_warned_of_as_there():
    with pytest.warns(UserWarning, match="num_stable_steps is used"):
        both = transformers.get_wsd_schedule(0.1, 2, 3, num_training_steps=50, num_stable_steps=4)
    assert both == transformers.get_wsd_schedule(0.1, 2, 3, num_stable_steps=4)
