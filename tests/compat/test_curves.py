"""The curves of the real peers, and ours, value by value."""

import inspect

import pytest

from odyssey_jax.compat import keras, timm, torch, transformers
from odyssey_jax.schedules import Schedule
from tests.compat.compare import build, check, curves, ours

GIVEN, RECORDED = curves("given.json"), curves("recorded.json")
RUN = [curve for curve in GIVEN + RECORDED if "raises" not in curve]


@pytest.mark.parametrize("curve", RUN, ids=lambda curve: curve["id"])
def test_the_peer_and_ours_agree(curve):
    check(curve)


def test_every_scheduler_here_has_a_curve():
    recorded = {ours(curve["peer"]) for curve in RUN}
    others = {
        timm.timm_noise,  # no scheduler by itself
        timm.create_scheduler_v2,  # see test_by_name.py
        keras.LearningRateScheduler,  # see test_forms.py
        transformers.get_scheduler,
        transformers.get_greedy_schedule,
        transformers.get_reduce_on_plateau_schedule,
    }
    for room in (torch, timm, transformers, keras):
        public = {x for name, x in vars(room).items() if callable(x) and not name.startswith("_")}
        assert public <= recorded | others


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
def test_transformers_by_name(name, arguments):
    got = transformers.get_scheduler(name, 0.1, 10, 100, arguments)
    function = transformers.TYPE_TO_SCHEDULER_FUNCTION[name]
    steps = {"num_warmup_steps": 10, "num_training_steps": 100}
    takes = inspect.signature(function).parameters
    assert got == function(0.1, **{k: v for k, v in steps.items() if k in takes}, **arguments)


def has_functions(schedule):
    return "from_python" in repr(schedule)


def all_built():
    for curve in GIVEN + RECORDED:
        if "raises" not in curve and curve["drive"] != "metric":
            built = build(curve)
            yield from built if isinstance(built, tuple) else (built,)


def test_they_are_schedules_like_any_other():
    count = 0
    for schedule in all_built():
        assert isinstance(schedule, Schedule)
        if not has_functions(schedule):
            assert Schedule.from_json(schedule.to_json()) == schedule
            count += 1
    assert count > 200


def test_a_wrong_curve_is_found():
    curve = dict(GIVEN[0], lr=[value * (1 + 3e-6) for value in GIVEN[0]["lr"]])
    with pytest.raises(AssertionError):
        check(curve)
