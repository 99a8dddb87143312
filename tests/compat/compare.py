"""Recorded curves of the peers, and the schedules that are to give the same."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from odyssey_jax.compat import keras, timm, torch, transformers

HERE = Path(__file__).parent
ROOMS = {
    "torch.optim.lr_scheduler": torch,
    "torch.optim.swa_utils": torch,
    "timm.scheduler": timm,
    "transformers.optimization": transformers,
    "keras.optimizers.schedules": keras,
    "keras.callbacks": keras,
}


@functools.cache
def curves(name: str) -> list[dict[str, Any]]:
    return json.loads((HERE / name).read_text())["curves"]


def run(peer: str = "") -> list[dict[str, Any]]:
    """The curves that the peers drew, of one library or of all."""
    every = curves("given.json") + curves("recorded.json")
    return [c for c in every if "raises" not in c and c["peer"].startswith(peer)]


def ours(peer: str) -> Any:
    """The function here that has the peer's name."""
    module, _, name = peer.rpartition(".")
    return getattr(ROOMS[module], name)


def build(curve: dict[str, Any]) -> Any:
    return _call(curve["peer"], curve["kwargs"], curve.get("base_lr"))


def _call(peer: str, kwargs: dict[str, Any], base_lr: Any) -> Any:
    arguments = {key: _argument(value, base_lr) for key, value in kwargs.items()}
    if base_lr is not None and "base_lr" not in arguments:
        arguments["base_lr"] = base_lr
    return ours(peer)(**arguments)


def _argument(x: Any, base_lr: Any) -> Any:
    if isinstance(x, dict) and "__lambda__" in x:
        return eval(f"lambda t: {x['__lambda__']}", {"math": math})
    if isinstance(x, dict) and "__peer__" in x:
        return _call(x["__peer__"], x["kwargs"], base_lr)
    return [_argument(item, base_lr) for item in x] if isinstance(x, list) else x


def check(curve: dict[str, Any]) -> None:
    """The recorded values to 2e-6 of the greatest; the long ones to 1e-4 of each, too."""
    built = build(curve)
    if curve["drive"] == "metric":
        compare(curve, _measured(built, curve["metrics"]), curve["lr"])
        return
    steps = curve.get("steps") or list(range(curve["n"]))
    compare(curve, values(built, steps), curve["lr"])
    if "momentum" in curve:
        many = isinstance(built, tuple)
        twins = tuple(each.momentum for each in built) if many else built.momentum
        compare(curve, values(twins, steps), curve["momentum"])


def compare(curve: dict[str, Any], got: Any, want: Any) -> None:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if want.ndim > got.ndim:  # one schedule, which is every group's
        got = np.broadcast_to(got, want.shape)
    assert got.shape == want.shape
    for mine, theirs in zip(np.atleast_2d(got), np.atleast_2d(want), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())
        if curve.get("tier") == "long":
            some = theirs != 0
            np.testing.assert_allclose(mine[some], theirs[some], rtol=1e-4)


# The curves are what is tested here, not what XLA makes of them: compiled in half the time.
_evaluate = jax.jit(
    lambda schedule, steps: schedule(steps),
    compiler_options={"xla_backend_optimization_level": 0},
)


def values(built: Any, steps: Sequence[int] = range(40)) -> Any:
    """The values at some steps; of one length, so that schedules of a kind share a program."""
    if isinstance(built, tuple):
        return [values(each, steps) for each in built]
    padded = np.resize(np.asarray(steps, np.int32), max(128, len(steps)))
    return np.asarray(_evaluate(built.precise(), padded))[: len(steps)]


def _measured(built: Any, metrics: list[float]) -> Any:
    if isinstance(built, tuple):
        return [_measured(each, metrics) for each in built]
    state, rates = built.init(), []
    for value in metrics:
        state = built.update(state, value)
        rates.append(float(built.lr(state)))
    return rates
