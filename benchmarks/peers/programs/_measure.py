"""What a peer's program is measured by; it needs numpy alone.

``python PROGRAM JOB DATA REPORT [CHECKPOINTS]``: DATA has the arrays, REPORT is the JSON to write,
and with CHECKPOINTS, a directory, each epoch is saved there.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

WARM = 3  # calls after the first of the whole job, of which the quickest counts


def run(train: Callable[..., Any], *packages: str) -> None:
    """Call a program's `train(job, data, checkpoints, at_epoch)` cold and warm; write the report.

    Args:
        train: Trains, calls `at_epoch()` once an epoch has ended, as far as it comes to the host
            then, and returns a function of images that gives their classes.
        *packages: Whose versions are reported.
    """
    job, path, report = json.loads(sys.argv[1]), *sys.argv[2:4]
    data = {name: np.load(f"{path}/{name}.npy", mmap_mode="r") for name in job["arrays"]}
    place = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    ends: list[float] = []

    def once(job: dict[str, Any]) -> tuple[float, Any]:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
        begun = time.perf_counter()
        predict = train(job, data, place, lambda: ends.append(time.time()))
        return time.perf_counter() - begun, predict

    # One epoch, from the process's start: the arguments say when that was.
    once({**job, "epochs": 1})
    first = (ends or [time.time()])[0] - job["started"]
    if job["epochs"] == 1:
        Path(report).write_text(json.dumps({"cold": first}))
        return
    # Compiled for the whole run, where that is another program.
    seconds, predict = [], None
    for _ in range(1 + job.get("warm", WARM)):
        taken, predict = once(job)
        seconds.append(taken)
    assert predict is not None
    right = np.asarray(predict(np.asarray(data["test_image"]))) == data["test_label"]
    found = {
        "cold": first,
        "warm": min(seconds[1:] or seconds),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "accuracy": float(right.mean()),
        "versions": {name: metadata.version(name) for name in packages},
    }
    Path(report).write_text(json.dumps(found))
