"""timm's schedulers: the curves of the real ones, by name too, noise, refusals."""

import json
import math
import pickle

import numpy as np
import pytest

from odyssey_jax.compat import timm
from odyssey_jax.schedules import Schedule
from tests.compat.compare import HERE, check, compare, run, values


@pytest.mark.parametrize("curve", run("timm."), ids=lambda curve: curve["id"])
def test_the_peer_and_ours_agree(curve):
    check(curve)


BY_NAME = json.loads((HERE / "by_name.json").read_text())


@pytest.mark.parametrize("curve", BY_NAME, ids=lambda curve: curve["kwargs"]["sched"])
def test_by_name(curve):
    if "raises" in curve:
        with pytest.raises(ValueError, match="got"):
            timm.create_scheduler_v2(curve["base_lr"], **curve["kwargs"])
        return
    schedule, epochs = timm.create_scheduler_v2(curve["base_lr"], **curve["kwargs"])
    assert epochs == curve["epochs"]
    compare(curve, values(schedule, range(curve["n"])), curve["lr"])


def test_plateau_by_name():
    plateau, epochs = timm.create_scheduler_v2(0.1, "plateau", num_epochs=20, warmup_epochs=2)
    assert epochs == 20
    assert plateau == timm.PlateauLRScheduler(0.1, warmup_t=2, warmup_lr_init=1e-5, noise_seed=42)
    with pytest.raises(ValueError, match="step_on_epochs must be True"):
        timm.create_scheduler_v2(0.1, "plateau", step_on_epochs=False, updates_per_epoch=2)


def test_a_decay_by_a_function_pickles():
    schedule = timm.WSDLRScheduler(0.1, t_initial=20, decay_t=5, decay_fn=math.cos)
    assert pickle.loads(pickle.dumps(schedule))(17) == schedule(17) > 0


def test_timm_noise_is_a_value():
    noise = timm.timm_noise(begin=2, end=9, std=0.5, seed=7)
    assert Schedule.from_json(noise.to_json()) == noise
    drawn = values(noise, range(12))
    assert (drawn[:2] == 1).all()
    assert (drawn[9:] == 1).all()
    assert (np.abs(drawn[2:9] - 1) < 0.67).all()
    assert len(set(drawn.tolist())) == 8


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: timm.CosineLRScheduler(0.1, t_initial=0), "got t_initial = 0"),
        (lambda: timm.PolyLRScheduler(0.1, t_initial=5, lr_min=-1.0), "got lr_min = -1.0"),
        (lambda: timm.TanhLRScheduler(0.1, t_initial=5, lb=3.0, ub=3.0), "lb must be less than ub"),
        (lambda: timm.WSDLRScheduler(0.1, t_initial=5, decay_t=6), "got decay_t = 6"),
        (lambda: timm.WSDLRScheduler(0.1, 5, 2, stable_fn="rsqrt"), "where there is no warm-up"),
        (lambda: timm.WSDLRScheduler(0.1, 5, 2, decay_ratio=1.0), "got decay_ratio = 1.0"),
        (lambda: timm.WSDLRScheduler(0.1, 5, 2, decay_fn="tanh"), "got decay_fn = 'tanh'"),
    ],
)
def test_what_the_peer_refuses_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
