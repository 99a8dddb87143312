"""One of several processes is killed or stopped: how long until all have ended, and go on.

``python -m benchmarks.faults [--quick] [--json FILE]``

Each try starts the processes by `odyssey-jax run`, with 2 simulated devices each and Gloo between
them, waits until they train, sends the signal to one of them, and takes the time until all others
have ended. What ended each is told apart: 75 is the watch of `ody.parallel.initialize`, -6 Gloo,
which aborts where a process is gone in the middle of a sum. Then the same command runs again: the
time until the first epoch after the resume is the restart's.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._harness import Ratio, arguments, show_ratios, write_json

TIMEOUT = 5.0  # seconds, as --timeout; the default is 300
SLACK = 5.0  # seconds beside it, on a machine that is busy
PROGRAM = """
import sys

import jax.numpy as jnp
import numpy as np
import optax

import odyssey_jax as ody

class Says:
    reads_state = False
    open = close = lambda self, *_: None
    def write(self, rows, live):
        print("epoch", flush=True)

task = ody.pure_task({"w": jnp.zeros((64, 64))}, lambda p, x: ((x @ p["w"] - x) ** 2).mean())
data = np.random.default_rng(0).normal(size=(128, 64)).astype(np.float32)
ody.fit(
    task, optax.adamw, data, batch_size=16, epochs=10**7, learning_rate=1e-3, directory=sys.argv[1],
    callbacks=ody.checkpoint(ody.every(seconds=1)), writers=[Says()],
)
"""


def start(directory: Path, processes: int) -> list[subprocess.Popen[str]]:
    """Start the processes of a run."""
    program = directory / "train.py"
    program.write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "odyssey_jax.cli", "run", "--coordinator", address]
    command += ["--processes", str(processes), "--timeout", str(TIMEOUT), "--process"]
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [*command, str(process), str(program), str(directory / "run")],
            env=os.environ | devices, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for process in range(processes)
    ]  # fmt: skip


def wait_for_epoch(running: list[subprocess.Popen[str]]) -> float:
    """Wait until process 0 has told of an epoch; return the seconds."""
    begun, out = time.perf_counter(), running[0].stdout
    assert out is not None
    while "epoch" not in (line := out.readline()):
        assert line, "process 0 ended before its first epoch"
    return time.perf_counter() - begun


def end(running: list[subprocess.Popen[str]]) -> None:
    """End what is left."""
    for process in running:
        process.kill()
    for process in running:
        process.communicate()


def one(processes: int, number: signal.Signals, draw: random.Random) -> dict[str, Any]:
    """Try once: say who was hit, the seconds to the end of all others, and their exit codes."""
    with tempfile.TemporaryDirectory() as name:
        running = start(Path(name), processes)
        try:
            wait_for_epoch(running)
            time.sleep(1 + draw.random())  # a checkpoint is written each second
            victim = draw.randrange(processes)
            running[victim].send_signal(number)
            begun = time.perf_counter()
            others = [process for i, process in enumerate(running) if i != victim]
            for process in others:
                process.communicate(timeout=60)
            ended = time.perf_counter() - begun
        finally:
            end(running)
        running = start(Path(name), processes)
        try:
            restart = wait_for_epoch(running)
        finally:
            end(running)
    codes = [process.returncode for process in others]
    return {"victim": victim, "seconds": ended, "codes": codes, "restart": restart}


def main() -> None:
    options = arguments(str(__doc__).splitlines()[0])
    draw, ratios = random.Random(0), dict[str, Ratio]()
    print(f"--timeout {TIMEOUT:g}; seconds from the signal to the end of all others, their codes")
    for processes in (2, 4):
        for number in (signal.SIGKILL, signal.SIGSTOP):
            tries = [one(processes, number, draw) for _ in range(1 if options.quick else 3)]
            for found in tries:
                print(
                    f"{processes} processes, {number.name} of {found['victim']}: "
                    f"{found['seconds']:5.2f} s {found['codes']}, restart {found['restart']:.1f} s",
                    flush=True,
                )
            # Over what the user set, and a machine that is busy needs.
            bound = [found["seconds"] / (TIMEOUT + SLACK) for found in tries]
            ratios[f"end of {processes} after {number.name} over the timeout"] = Ratio(bound, 1.0)
    show_ratios(ratios)
    write_json(options.json, ratios)


if __name__ == "__main__":
    main()
