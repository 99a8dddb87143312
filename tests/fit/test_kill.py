"""SIGKILL at random instants: the finished run is, to the bit, the one never interrupted."""

import collections
import csv
import multiprocessing
import os
import random
import re
import shutil
import signal
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.fit import runs_to_kill

# In short, two for each of a few configurations; ODYSSEY_KILLS asks for more, and for all.
SHORT = ["linen", "every epoch", "accumulated", "sharded", "within epochs", "with writers"]
KILLS = int(os.environ.get("ODYSSEY_KILLS", "2"))
NAMES = runs_to_kill.CONFIGURATIONS if "ODYSSEY_KILLS" in os.environ else SHORT
MOST_TO_A_RUN = 8

# Each run is a process of its own, but forked from one that has imported everything.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.fit.runs_to_kill", "odyssey_jax.store._orbax"])


class Run:
    """A call of fit in a process of its own."""

    def __init__(self, name, directory, cache):
        self.checkpoints = directory / "checkpoints"
        self.begun, child = processes.Pipe(duplex=False)
        arguments = (name, directory, cache, child)
        self.process = processes.Process(target=runs_to_kill.run, args=arguments)
        self.process.start()
        child.close()

    def finish(self):
        self.process.join()
        assert self.process.exitcode == 0

    def kill(self, where, clock):
        """Kills it there; says whether it was still alive."""
        if where != "at the start":
            self.begun.poll(None)
        waits = {"at the start": 1.5, "in a save": 0.02, "after SIGTERM": 0.1}
        if where == "in a save":
            self.until_a_save_begins()
        elif where == "after SIGTERM":
            time.sleep(clock.uniform(0, 1.0))
            self.process.terminate()
        time.sleep(clock.uniform(0, waits.get(where, 1.0)))
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def until_a_save_begins(self):
        while self.process.is_alive():
            if any(is_unfinished(name) for name in names(self.checkpoints)):
                return
            time.sleep(0.0005)


def is_unfinished(name):
    return "tmp" in name


def names(directory):
    return os.listdir(directory) if directory.is_dir() else []


def committed(directory):
    return sorted(int(x) for x in names(directory / "checkpoints") if re.fullmatch(r"\d+", x))


def outcome(directory):
    files = directory.with_suffix(".outcome"), directory / "metrics.jsonl"
    return [file.read_bytes() for file in files], committed(directory), tables(directory)


def tables(directory):
    """What the readers of other files find in them, if there are such."""
    found = {}
    for file in sorted(directory.glob("*.csv")):
        with file.open() as lines:
            found[file.name] = list(csv.DictReader(lines))
    if (directory / "tensorboard").is_dir():
        reader = EventAccumulator(str(directory / "tensorboard"), {"scalars": 0, "histograms": 0})
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            # The rates are of the clock, and at each exit of the loop.
            if not tag.endswith("_per_second"):
                found[tag] = [(x.step, repr(x.value)) for x in reader.Scalars(tag)]
    return found


WHERE = ("at the start", "at any time", "in a save", "in a save", "after SIGTERM")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_random_instants(name, tmp_path):
    clock = random.Random(name)
    cache = tmp_path / "cache"
    Run(name, tmp_path / "whole", cache).finish()
    whole = outcome(tmp_path / "whole")
    assert bool(whole[2]) == (name == "with writers")
    count = collections.Counter()
    while count["killed"] < KILLS:
        directory, latest = tmp_path / f"cut{count['finished']}", 0
        for _ in range(min(clock.randint(2, MOST_TO_A_RUN), KILLS - count["killed"])):
            where = clock.choice(WHERE)
            if not Run(name, directory, cache).kill(where, clock):
                break
            count["killed"] += 1
            count[where] += 1
            count["left half a save"] += any(map(is_unfinished, names(directory / "checkpoints")))
            assert max(committed(directory), default=0) >= latest, "what is committed stays"
            latest = max(committed(directory), default=0)
        Run(name, directory, cache).finish()
        count["finished"] += 1
        assert outcome(directory) == whole
        shutil.rmtree(directory)
    print(name, dict(count))
