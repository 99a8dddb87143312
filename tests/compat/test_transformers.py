"""transformers' schedules: the curves of the real ones, by name too, refusals."""

import inspect

import pytest

from odyssey_jax.compat import transformers
from tests.compat.compare import check, run


@pytest.mark.parametrize("curve", run("transformers."), ids=lambda curve: curve["id"])
def test_the_peer_and_ours_agree(curve):
    check(curve)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("linear", {}),
        ("cosine", {"num_cycles": 0.25}),
        ("cosine_with_restarts", {"num_cycles": 2}),
        ("polynomial", {"power": 2.0}),
        ("constant", {}),
        ("constant_with_warmup", {}),
        ("inverse_sqrt", {"timescale": 30}),
        ("reduce_lr_on_plateau", {"patience": 3}),
        ("cosine_with_min_lr", {"min_lr": 1e-3}),
        ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
        ("warmup_stable_decay", {"num_decay_steps": 20}),
        ("greedy", {"patience": 3}),
    ],
)
def test_by_name(name, arguments):
    got = transformers.get_scheduler(name, 0.1, 10, 100, arguments)
    function = transformers.TYPE_TO_SCHEDULER_FUNCTION[name]
    steps = {"num_warmup_steps": 10, "num_training_steps": 100}
    takes = inspect.signature(function).parameters
    assert got == function(0.1, **{k: v for k, v in steps.items() if k in takes}, **arguments)


def test_two_lengths_of_the_stable_phase_are_warned_of_as_there():
    with pytest.warns(UserWarning, match="num_stable_steps is used"):
        both = transformers.get_wsd_schedule(0.1, 2, 3, num_training_steps=50, num_stable_steps=4)
    assert both == transformers.get_wsd_schedule(0.1, 2, 3, num_stable_steps=4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
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
    ],
)
def test_what_the_peer_refuses_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
