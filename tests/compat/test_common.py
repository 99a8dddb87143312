"""What holds in every library: help, groups, traced rates, metrics in JAX, JSON forms, refusals."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax as ody
from odyssey_jax.compat import _common, keras, timm, torch, transformers
from odyssey_jax.schedules import Schedule
from tests.compat.compare import build, check, ours, run, values

PUBLIC = {
    f"{room.__name__.rpartition('.')[2]}.{name}": function
    for room in (torch, timm, transformers, keras)
    for name, function in vars(room).items()
    if callable(function) and not name.startswith("_")
}


def test_it_is_reachable_from_the_top():
    assert ody.compat.torch.StepLR is torch.StepLR


@pytest.mark.parametrize("name", PUBLIC)
def test_the_help_explains_every_argument(name):
    doc = inspect.getdoc(PUBLIC[name])
    args = doc.split("\nArgs:\n")[1].split("\n\n")[0]
    explained = re.findall(r"^    \**(\w+): \S", args, flags=re.MULTILINE)
    assert explained == list(inspect.signature(PUBLIC[name]).parameters)
    for section in ("Returns", "Raises", "Source", "Example"):
        assert doc.count(f"\n{section}:\n    ") == 1
    assert f"from odyssey_jax.compat import {name.partition('.')[0]}\n" in doc


def test_an_argument_that_is_explained_nowhere_is_found():
    def scheduler(base_lr, steps):
        """Do nothing.

        Example:
            >>> None
        """

    with pytest.raises(KeyError, match="steps"):
        _common.documented({}, "peer")(scheduler)


def test_every_scheduler_here_has_a_curve():
    recorded = {ours(curve["peer"]) for curve in run()}
    others = {
        timm.timm_noise,  # no scheduler by itself
        timm.create_scheduler_v2,  # see test_timm.py
        keras.LearningRateScheduler,  # see test_keras.py
        transformers.get_scheduler,
        transformers.get_greedy_schedule,
        transformers.get_reduce_on_plateau_schedule,
    }
    assert set(PUBLIC.values()) <= recorded | others


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


def test_a_value_for_each_group_must_be_as_many():
    with pytest.raises(ValueError, match="max_lr must have one value for each group"):
        torch.OneCycleLR(base_lr=[0.1, 0.2], max_lr=[1.0, 1.0, 1.0], total_steps=10)


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
    np.testing.assert_allclose(compiled, eager, rtol=3e-7)  # as of any schedule, in a program
    assert len(set(eager)) > 1
    groups = PLATEAUS[name]([0.1, 0.2])
    assert len(groups) == 2
    np.testing.assert_allclose(groups[1].lr(groups[1].init()), 2 * schedule.lr(schedule.init()))


def has_functions(schedule):
    return "from_python" in repr(schedule)


def all_built():
    for curve in run():
        if curve["drive"] != "metric":
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
    first = run()[0]
    curve = dict(first, lr=[value * (1 + 3e-6) for value in first["lr"]])
    with pytest.raises(AssertionError):
        check(curve)


def test_what_is_read_once_is_read_for_each_group():
    milestones = [3, 6]
    groups = torch.MultiStepLR([0.4, 0.1], (step for step in milestones))
    assert groups == torch.MultiStepLR([0.4, 0.1], milestones)


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


NEEDED = {
    "initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5, "base_lr": 0.1,
    "max_lr": 0.5, "t_initial": 10, "decay_t": [3],
}  # fmt: skip


def flags():
    """Whatever is True or False by default."""
    for name, function in PUBLIC.items():
        parameters = inspect.signature(function).parameters.values()
        needed = [x.name for x in parameters if x.default is x.empty and x.name in NEEDED]
        for flag in (x.name for x in parameters if isinstance(x.default, bool)):
            given = {key: NEEDED[key] for key in needed} | {flag: "no"}
            yield pytest.param(functools.partial(function, **given), flag, id=f"{name} {flag}")


@pytest.mark.parametrize(("make", "flag"), list(flags()))
def test_a_flag_is_true_or_false(make, flag):
    with pytest.raises(ValueError, match=f"{flag} must be True or False; got {flag} = 'no'"):
        make()
