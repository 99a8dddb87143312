"""A program on several processes of this machine, each with a few simulated devices."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BEGIN = """
import sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(
    sys.argv[1], int(sys.argv[2]), int(sys.argv[3]),
    shutdown_timeout_seconds=20,  # where one failed, the others don't come to the end
)
sys.argv[1:] = sys.argv[4:]
"""

# The same, where a process that is no more ends the others.
WATCHED = """
import sys
import jax
import odyssey_jax as ody
jax.config.update("jax_cpu_collectives_implementation", "gloo")
ody.parallel.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), timeout=8)
sys.argv[1:] = sys.argv[4:]
"""


def address_here():
    """An address at which the first process may listen."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def environment_of(devices):
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        # The suite's own, for quick compiling; of two counts the last is taken.
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        # They share the machine's few cores, so they gain nothing from threads of their own.
        "OMP_NUM_THREADS": "1",
    }


def start(program, *arguments, processes=2, devices=2, begin=BEGIN):
    """Starts them, connected with each other; `arguments` are their `sys.argv[1:]`."""
    address, environment = address_here(), environment_of(devices)
    whole = [sys.executable, "-c", begin + program, address, str(processes)]
    return [
        subprocess.Popen(
            [*whole, str(process), *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]


def finish(running, code=0):
    """Waits for them, and gives back what each printed (Gloo's own lines left out)."""
    try:
        ended = [process.communicate(timeout=300) for process in running]
    except subprocess.TimeoutExpired:
        for process in running:
            process.kill()
        pytest.fail("\n".join(process.communicate()[1] for process in running))
    errors = "\n".join(err for _, err in ended)
    assert [process.returncode for process in running] == [code] * len(running), errors
    return ["\n".join(x for x in out.splitlines() if "[Gloo]" not in x) for out, _ in ended]


def run(program, *arguments, **kwargs):
    """`start` and `finish`."""
    return finish(start(program, *arguments, **kwargs))
