"""Runs of 4 processes with 2 devices each: one is killed, all go on; and saved on 2, 4 or 1."""

import os
import pickle
import random
import shutil
import signal

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import odyssey_jax as ody
from tests import examples
from tests.processes import WATCHED, run, start

EPOCHS = 12

FIT = """
import jax
import numpy as np
import optax
import odyssey_jax as ody
from tests import examples

def loss_fn(params, batch):
    hidden = jax.nn.tanh(batch["x"] @ params["in"])
    return examples.cross_entropy(hidden @ params["out"], batch["y"])

draw = np.random.default_rng(0)
PARAMS = {
    "in": draw.normal(size=(4, 16)).astype("f"), "out": draw.normal(size=(16, 3)).astype("f") / 4
}

def placed(kind, devices=None):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    return ody.fully_sharded(mesh, min_size=1) if kind == "sharded" else ody.data_parallel(mesh)

def fit(directory, placement, epochs, *writers):
    return ody.fit(
        ody.pure_task(PARAMS, loss_fn), optax.adamw, examples.train_data(), examples.valid_data(),
        epochs=epochs, learning_rate=ody.warmup_cosine(0.05, 10, 60), directory=directory,
        callbacks=ody.chain(
            ody.early_stopping("valid/loss", 400, restore_best=True),
            ody.checkpoint(every_epochs=3, keep_best=1, monitor="valid/loss"),
        ),
        placement=placement, writers=[ody.JsonLines(), *writers],
    )
"""

PROGRAM = (
    FIT
    + """
import os, pickle, signal, sys
from pathlib import Path

directory, me = Path(sys.argv[1]), jax.process_index()
pid = lambda process: directory / f"pid{process}"
"""
)

TWO = (
    PROGRAM
    + """
for kind in ("replicated", "sharded"):
    fit(directory / f"two {kind}", placed(kind), 6)
"""
)

KILLED = (
    PROGRAM
    + """
victim, epoch = map(int, sys.argv[2:])
pid(me).write_text(str(os.getpid()))

class Kills:
    def __init__(self):
        self.left = [victim]
    def open(self, run):
        pass
    def write(self, rows, live):
        if self.left and rows[-1]["epoch"] >= epoch:
            os.kill(int(pid(self.left.pop()).read_text()), signal.SIGKILL)
    def close(self):
        pass

fit(directory / "killed", placed("sharded"), 12, Kills())
"""
)

FOUR = (
    PROGRAM
    + """
def parts(tree):
    return [[np.asarray(s.data) for s in x.addressable_shards] for x in jax.tree.leaves(tree)]

for name, kind in {
    "whole": "sharded", "killed": "sharded", "two replicated": "replicated",
    "two sharded": "sharded",
}.items():
    result = fit(directory / name, placed(kind), 12)
    carry = result.carry._replace(key=jax.random.key_data(result.carry.key))
    kept = parts((carry, result.state, result.best)), dict(result.history), result.best_epoch
    (directory / f"{name}{me}.pickle").write_bytes(pickle.dumps(kept))

# What was saved in parts: whole, in parts of other processes, and from another library's file.
placement = placed("sharded")
store = {"state": {"params": result.state.params}, "n": 3}
with ody.Store(directory / "store") as saved:
    saved.save(1, store, {})
    found = saved.load().tree
    again = saved.restore(store).tree
    for name, x in store["state"]["params"].items():
        assert again["state"]["params"][name].sharding == x.sharding
        for shard in x.addressable_shards:
            np.testing.assert_array_equal(found["state"]["params"][name][shard.index], shard.data)
for step in ("latest", "best"):
    whole = ody.load_params(directory / "two sharded", step=step)
    laid_out = ody.load_params(directory / "two sharded", step=step, placement=placement)
    for name, x in laid_out.items():
        assert isinstance(whole[name], np.ndarray)
        assert x.sharding == result.state.params[name].sharding, name
        for shard in x.addressable_shards:
            np.testing.assert_array_equal(whole[name][shard.index], shard.data)
            assert shard.data.size == x.size // 8
theirs = ody.load_params(directory / "two.safetensors", placement=placement)
assert all(x.sharding == laid_out[name].sharding for name, x in theirs.items())
if me == 2:  # and the others go on
    ody.export_params(directory / "two sharded", directory / "four.safetensors")
"""
)


@pytest.mark.slow
def test_four_processes_one_of_which_is_killed_and_saved_on_two_gone_on_with_on_four_and_one(
    tmp_path,
):
    run(TWO, tmp_path)
    ody.export_params(tmp_path / "two sharded", tmp_path / "two.safetensors")
    alone = {kind: tmp_path / f"alone {kind}" for kind in ("replicated", "sharded")}
    for kind, directory in alone.items():
        shutil.copytree(tmp_path / f"two {kind}", directory)

    draw = random.Random(0)
    victim, epoch = draw.randrange(4), draw.randrange(4, EPOCHS)
    running = start(KILLED, tmp_path, victim, epoch, processes=4, begin=WATCHED)
    errors = [process.communicate(timeout=200)[1] for process in running]
    codes = [process.returncode for process in running]
    assert codes.pop(victim) == -signal.SIGKILL, errors
    assert {*codes} <= {os.EX_TEMPFAIL, -signal.SIGABRT}, errors  # by the watch, or by Gloo
    steps = ody.store.Reader(tmp_path / "killed" / "checkpoints").steps()
    assert 0 < max(steps) < EPOCHS * 5
    run(FOUR, tmp_path, processes=4)

    found = {path.stem: pickle.loads(path.read_bytes()) for path in tmp_path.glob("*.pickle")}
    for me in range(4):
        examples.assert_same(found[f"killed{me}"], found[f"whole{me}"])
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("killed", "whole")]
    assert lines[0] == lines[1]
    exported = load_file(tmp_path / "four.safetensors")
    examples.assert_same(exported, ody.load_params(tmp_path / "two sharded"))

    history, best = found["whole0"][1:]
    space = {}
    exec(FIT, space)  # the same run in this process
    resumed = {kind: space["fit"](alone[kind], space["placed"](kind, n), EPOCHS)
               for kind, n in (("replicated", 1), ("sharded", 8))}  # fmt: skip
    rows = {f"two {kind}": found[f"two {kind}0"][1:] for kind in alone}
    rows |= {kind: (dict(result.history), result.best_epoch) for kind, result in resumed.items()}
    for name, (own, own_best) in rows.items():
        assert own_best == best, name
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), own, history)
    assert ody.store.Reader(alone["sharded"] / "checkpoints").steps() == tuple(
        ody.store.Reader(tmp_path / "two sharded" / "checkpoints").steps()
    )
