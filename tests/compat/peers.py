"""How the real peers are driven, for `record.py`; see there for what must be installed."""

from __future__ import annotations

import os
import warnings
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import importlib.metadata
import importlib.util
import sys
import types

import keras
import numpy as np
import torch
import transformers.optimization

# `import timm` imports torchvision, which its schedulers don't need.
_timm = types.ModuleType("timm")
_timm.__path__ = importlib.util.find_spec("timm").submodule_search_locations
sys.modules["timm"] = _timm
import timm.scheduler  # noqa: E402

warnings.simplefilter("ignore")
keras.config.set_floatx("float64")

MODULES = {
    "torch.optim.lr_scheduler": torch.optim.lr_scheduler,
    "torch.optim.swa_utils": torch.optim.swa_utils,
    "timm.scheduler": timm.scheduler,
    "transformers.optimization": transformers.optimization,
    "keras.optimizers.schedules": keras.optimizers.schedules,
    "keras.callbacks": keras.callbacks,
}
VERSIONS = {m.__name__: m.__version__ for m in (torch, transformers, keras)}
VERSIONS["timm"] = importlib.metadata.version("timm")


def peer(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(MODULES[module], attribute)


def build(name: str, kwargs: dict[str, Any], opt: Any) -> Any:
    return peer(name)(optimizer=opt, **arguments(kwargs, opt))


def optimizer(base_lr: Any, momentum: float) -> torch.optim.Optimizer:
    rates = base_lr if isinstance(base_lr, list) else [base_lr]
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=rates[0], momentum=momentum)


def arguments(x: Any, opt: Any) -> Any:
    """Arguments as the peer takes them: functions and nested schedulers in place of their names."""
    if isinstance(x, dict) and "__lambda__" in x:
        return eval(f"lambda t: {x['__lambda__']}", {"math": __import__("math")})
    if isinstance(x, dict) and "__peer__" in x:
        return build(x["__peer__"], x["kwargs"], opt)
    if isinstance(x, dict):
        return {key: arguments(value, opt) for key, value in x.items()}
    return [arguments(item, opt) for item in x] if isinstance(x, list) else x


def drive(curve: dict[str, Any]) -> dict[str, Any]:
    """The curve with the values of the peer: `lr`, and `momentum` where it is cycled."""
    if curve["peer"].startswith("keras"):
        run = _keras_metric if curve["drive"] == "metric" else _keras
        return {**curve, "lr": run(curve)}
    opt = optimizer(curve["base_lr"], curve.get("optimizer_momentum", 0.0))
    scheduler = build(curve["peer"], curve["kwargs"], opt)
    wide = isinstance(curve["base_lr"], list)
    rates, momenta = [], []

    def read() -> None:
        rates.append([float(group["lr"]) for group in opt.param_groups])
        momenta.append([float(group["momentum"]) for group in opt.param_groups])

    timm_like = curve["peer"].startswith("timm")
    if curve["drive"] == "metric":
        for index, metric in enumerate(curve["metrics"]):
            # timm's own training script gives the number of the epoch that begins.
            scheduler.step(index + 1, metric) if timm_like else scheduler.step(metric)
            read()
    elif curve["drive"] == "at":
        for step in curve["steps"]:
            scheduler.last_epoch = step
            closed = getattr(scheduler, "_get_closed_form_lr", None)
            with torch.optim.lr_scheduler._enable_get_lr_call(scheduler):
                rates.append(closed() if closed else scheduler.get_lr())
    else:
        in_updates = not curve["kwargs"].get("t_in_epochs", True)
        for step in range(curve["n"]):
            read()
            opt.step()
            if timm_like:
                (scheduler.step_update if in_updates else scheduler.step)(step + 1)
            else:
                scheduler.step()
    result = {**curve, "lr": _columns(rates, wide)}
    if curve.get("optimizer_momentum"):
        result["momentum"] = _columns(momenta, wide)
    return result


def _columns(rows: list[list[float]], wide: bool) -> list[Any]:
    return [list(column) for column in zip(*rows, strict=True)] if wide else [r[0] for r in rows]


def _keras(curve: dict[str, Any]) -> list[float]:
    schedule = peer(curve["peer"])(**curve["kwargs"])
    steps = curve.get("steps") or range(curve["n"])
    return [float(schedule(np.int64(step))) for step in steps]


def _keras_metric(curve: dict[str, Any]) -> list[float]:
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(curve["base_lr"]), loss="mse")
    callback = peer(curve["peer"])(**curve["kwargs"])
    callback.set_model(model)
    callback.on_train_begin()
    rates = []
    for epoch, metric in enumerate(curve["metrics"]):
        callback.on_epoch_end(epoch, {callback.monitor: metric})
        rates.append(float(model.optimizer.learning_rate))
    return rates


def drive_by_name(curve: dict[str, Any]) -> dict[str, Any]:
    """`timm.scheduler.create_scheduler_v2`: the curve, and the epochs to train."""
    opt, kwargs = optimizer(curve["base_lr"], 0.0), curve["kwargs"]
    try:
        scheduler, epochs = timm.scheduler.create_scheduler_v2(opt, **kwargs)
    except (ValueError, AssertionError) as error:
        return {**curve, "raises": str(error)}
    rates = []
    for step in range(curve["n"]):
        rates.append(opt.param_groups[0]["lr"])
        if scheduler is not None:
            in_epochs = kwargs.get("step_on_epochs", True)
            (scheduler.step if in_epochs else scheduler.step_update)(step + 1)
    return {**curve, "epochs": epochs, "lr": rates}
