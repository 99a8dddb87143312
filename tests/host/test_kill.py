"""SIGKILL at random instants: the finished run is, to the bit, the one never interrupted."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# For each of the two, so 20 in the suite; ODYSSEY_KILLS asks for more.
KILLS = int(os.environ.get("ODYSSEY_KILLS", "10"))

PROGRAM = """
import pickle, sys
import jax, optax
import odyssey_jax as ody
from tests import examples

class Ready:
    def open(self, run): print("ready", flush=True)
    def write(self, rows, steps_per_second): pass
    def close(self): pass

name, directory = sys.argv[1:]
result = ody.fit(
    examples.TASKS[name](), optax.adamw, examples.train_data(), examples.valid_data(),
    epochs=400, learning_rate=ody.warmup_cosine(0.02, 100, 2000),
    callbacks=ody.chain(
        ody.early_stopping("valid/loss", 400, restore_best=True), ody.checkpoint(every_epochs=2)
    ),
    directory=directory, writers=[ody.JsonLines(), Ready()],
)
carry = result.carry._replace(key=jax.random.key_data(result.carry.key))
leaves = [x.tobytes() for x in jax.device_get(jax.tree.leaves((carry, result.state, result.best)))]
with open(directory + ".pickle", "wb") as file:
    pickle.dump((leaves, {k: v.tobytes() for k, v in result.history.items()}), file)
"""


def start(name, directory):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, name, str(directory)],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )


def outcome(directory):
    return Path(f"{directory}.pickle").read_bytes(), (directory / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nnx", "linen"])
def test_killed_at_random_instants(name, tmp_path):
    clock = random.Random(name)
    whole = start(name, tmp_path / "whole")
    whole.communicate()
    assert whole.returncode == 0
    killed = 0
    while killed < KILLS:
        process = start(name, tmp_path / "cut")
        # Some die before the first step, while the program compiles; most in the middle.
        if clock.random() < 0.9:
            process.stdout.readline()
            time.sleep(clock.uniform(0.0, 3.0))
        else:
            time.sleep(clock.uniform(0.0, 3.0))
        assert process.poll() is None, "it ended before it could be killed: make it longer"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += 1
    last = start(name, tmp_path / "cut")
    last.communicate()
    assert last.returncode == 0
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "cut")
