"""timm's schedules by the names of its training script."""

import json

import numpy as np
import pytest

from odyssey_jax.compat import timm
from tests.compat.compare import HERE, compare

CURVES = json.loads((HERE / "by_name.json").read_text())


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve["kwargs"]["sched"])
def test_timm_by_name(curve):
    if "raises" in curve:
        with pytest.raises(ValueError, match="got"):
            timm.create_scheduler_v2(curve["base_lr"], **curve["kwargs"])
        return
    schedule, epochs = timm.create_scheduler_v2(curve["base_lr"], **curve["kwargs"])
    assert epochs == curve["epochs"]
    compare(curve, np.asarray(schedule(np.arange(128)))[: curve["n"]], curve["lr"])


def test_plateau_by_name():
    plateau, epochs = timm.create_scheduler_v2(0.1, "plateau", num_epochs=20, warmup_epochs=2)
    assert epochs == 20
    assert plateau == timm.PlateauLRScheduler(0.1, warmup_t=2, warmup_lr_init=1e-5, noise_seed=42)
    with pytest.raises(ValueError, match="step_on_epochs must be True"):
        timm.create_scheduler_v2(0.1, "plateau", step_on_epochs=False, updates_per_epoch=2)
