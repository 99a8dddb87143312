"""Data that is larger than the memory that a process may have."""

import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import re, resource, sys
import jax, jax.numpy as jnp, numpy as np, optax
import odyssey_jax as ody

path, size, bound = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.block_until_ready(jax.jit(jnp.ones, static_argnums=0)(8))  # the threads of the backend

# RLIMIT_DATA counts private memory that can be written to, and no file that is mapped to be read.
status = open("/proc/self/status").read()
limit = 1024 * int(re.search(r"VmData:\\s+(\\d+)", status)[1]) + bound
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.ones(size, np.uint8)
except MemoryError:
    print("it does not fit")

images = np.load(path, mmap_mode="r")
task = ody.pure_task(jnp.zeros(4096), lambda w, x: ((x / 255 @ w - 1) ** 2).mean())
train = ody.HostDataset(images, 1024, shuffle=True)
result = ody.fit(
    task, optax.sgd(1e-3), train, epochs=1, writers=[], prefetch_bytes=2**25
)
print(result.steps, "steps")
"""


@pytest.mark.slow
def test_a_memory_map_larger_than_the_memory_trains(tmp_path):
    examples, bound = 2**18, 2**29  # 1 GiB in a file without blocks, and 512 MiB
    path = tmp_path / "images.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (examples, 4096)).flush()
    size = str(examples * 4096)
    command = [sys.executable, "-c", PROGRAM, str(path), size, str(bound)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["it does not fit", "256 steps"]
