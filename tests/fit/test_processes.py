"""fit on several processes: one run, interrupted and gone on with to the bit."""

import pickle
import signal
from functools import partial

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

import odyssey_jax as ody
from odyssey_jax.parallel import _alike, check_alike
from tests import examples
from tests.processes import finish, run, start

EPOCHS = 12

FIT = """
import optax
import odyssey_jax as ody
from tests import examples

def fit(directory, placement, *writers, epochs=12, seed=0):
    return ody.fit(
        examples.linear_task(), optax.adamw, examples.train_data(), examples.valid_data(),
        epochs=epochs, learning_rate=ody.warmup_cosine(0.05, 10, 60), seed=seed,
        callbacks=ody.chain(
            ody.early_stopping("valid/loss", 400, restore_best=True),
            ody.checkpoint(every_epochs=3),
        ),
        directory=directory, placement=placement, writers=[ody.JsonLines(), *writers],
    )

class At:
    "A writer that does something, once, when so many epochs are done."
    def __init__(self, epoch, act):
        self.epoch, self.acts = epoch, [act]
    def open(self, run):
        pass
    def write(self, rows, live):
        # A second signal, before the first is agreed on, would end that process at once.
        if self.acts and rows[-1]["epoch"] >= self.epoch:
            self.acts.pop()()
    def close(self):
        pass
"""

PROGRAM = (
    FIT
    + """
import os, pickle, signal, sys
from pathlib import Path
import numpy as np

directory, me = Path(sys.argv[1]), jax.process_index()
placement = ody.data_parallel()
(directory / f"pid{me}").write_text(str(os.getpid()))
pid = lambda process: int((directory / f"pid{process}").read_text())

def leave(result, name):
    carry = result.carry._replace(key=jax.random.key_data(result.carry.key))
    leaves = [np.asarray(x) for x in jax.tree.leaves((carry, result.state, result.best))]
    kept = (leaves, dict(result.history), result.stop_reason, result.best_epoch, result.steps)
    (directory / f"{name}{me}.pickle").write_bytes(pickle.dumps(kept))
"""
)

# A signal to one process ends all, each with its code, and all saved the same step.
TERMINATED = (
    PROGRAM + "fit(directory / 'run', placement, At(2, lambda: os.kill(pid(1), signal.SIGTERM)))"
)

KILLED = (
    PROGRAM
    + """
def kill():
    os.kill(pid(1), signal.SIGKILL)
    os.kill(pid(0), signal.SIGKILL)
fit(directory / "run", placement, At(7, kill))
"""
)

FINISHED = (
    PROGRAM
    + """
leave(fit(directory / "run", placement), "run")
leave(fit(directory / "whole", None), "whole")
leave(fit(directory / "of one", placement), "of one")
fit(directory / "sharded", ody.fully_sharded(min_size=1), epochs=6)

# What is not the same in all processes is refused by all.
def refused(kind, message, call):
    try:
        call()
    except kind as error:
        assert message in str(error), error
        return
    raise AssertionError(message)

refused(ValueError, "pass a placement=", lambda: fit(None, ody.parallel.one_device()))
alone = ody.data_parallel(jax.sharding.Mesh(jax.devices()[:2], ("data",)))
refused(ValueError, "no device of the processes [1]", lambda: fit(None, alone))
refused(
    ValueError, "process 1 has another set of arguments than process 0",
    lambda: fit(directory / "differs", placement, seed=me),
)

# An error in one process is raised in all.
def fail():
    raise OSError(28, "No space left on device")

refused(
    OSError if me == 0 else RuntimeError, "No space left on device",
    lambda: fit(directory / "fails", placement, At(2, fail)),
)
"""
)


# What is done with a run's parameters afterwards: all processes load them, and one exports them.
LOADED = (
    PROGRAM
    + """
run = directory / "run"
put = lambda x, *axes: jax.make_array_from_callback(
    x.shape, jax.NamedSharding(placement.mesh, jax.P(*axes)), lambda index: x[index]
)
make = lambda n: {
    "rows": put(np.arange(24.0, dtype=np.float32).reshape(8, 3) + n, "data"),
    "whole": put(np.full(5, n, np.float32)),
}

def check(tree, n):
    for name, x in make(n).items():
        assert isinstance(tree[name], np.ndarray) and tree[name].shape == x.shape, tree[name]
        for shard in x.addressable_shards:
            np.testing.assert_array_equal(tree[name][shard.index], shard.data)

how = {"keep_last": None, "keep_best": 1, "monitor": "loss"}
with ody.Store(run / "checkpoints", **how) as store:
    for n in (1, 2):
        store.save(n, {"state": {"params": make(n)}}, {"metrics": {"loss": n}})
    check(store.load().tree["state"]["params"], 2)  # which waits for the save
    check(store.load("best", subtree="state/params").tree, 1)
raw = {"subtree": "state/params"}  # no checkpoint of `fit`, which says where its are
check(ody.load_params(run, **raw), 2)
check(ody.load_params(run, step="best", **raw), 1)
like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make(0))
for step, n in (("latest", 2), ("best", 1)):
    found = ody.load_params(run, like, step, **raw)
    for name, x in make(n).items():
        assert found[name].sharding == x.sharding
        for a, b in zip(found[name].addressable_shards, x.addressable_shards, strict=True):
            np.testing.assert_array_equal(a.data, b.data)
if me == 0:  # and the others are elsewhere
    check(ody.load_params(run, **raw), 2)
    ody.export_params(run, directory / "orbax", **raw)
    ody.export_params(run, directory / "params.safetensors", "best", **raw)
"""
)


# Each process reads its share: of one order, or of a stream of its own, whose state is saved.
READ = (
    PROGRAM
    + """
from tests.sources import Read

def host():
    train = ody.HostDataset(examples.arrays(), 4, shuffle=True)
    return train, ody.HostDataset(examples.arrays(24, seed=1), 4)

def state():
    valid = ody.HostDataset(examples.arrays(24, seed=1), 4)
    rarely = ody.Evaluation(valid, every=ody.every(epochs=3), batches=2, at_start=True)
    return Read(4, "by state", examples=20, seed=me), {"each": valid, "rarely": rarely}

def fit(directory, data, hooks=()):
    return ody.fit(
        examples.linear_task(), optax.adam, *data, epochs=4, learning_rate=0.05, writers=[],
        callbacks=ody.checkpoint(ody.every(steps=3)), directory=directory, placement=placement,
        hooks=hooks,
    )

def leave_at_nine(view):
    if view.step == 9:
        raise KeyError("left here")

try:
    fit(directory / "uneven", (host()[0], ody.HostDataset(examples.arrays(20, seed=1), 5)))
except ValueError as error:
    assert "a batch of 10 examples can't be cut evenly" in str(error), error
else:
    raise AssertionError("a batch of 10 on 4 devices")

# What fails in one ends all, by name, and none waits for its share.
from odyssey_jax.errors import ProcessFailedError
for faults, message in (
    ({7: OSError(5, "no such disk")}, "no such disk"),
    ({3: lambda batch: None}, "ended after 3 batches, at step 3"),
):
    broken = Read(4, examples=20, seed=me, faults=faults if me else None)
    try:
        fit(directory / message[:8], (broken, None))
    except (OSError, ValueError) as error:
        assert me and message in str(error), error
    except ProcessFailedError as error:
        assert not me and "process 1" in str(error) and message in str(error), error
    else:
        raise AssertionError(message)

try:
    fit(directory / "apart", (host()[0], Read(4, examples=20 + 4 * me)))
except (ValueError, ProcessFailedError) as error:
    apart = "different numbers of batches from step 5 on: 0 by process 0, 1 by process 1"
    assert apart in str(error), error
else:
    raise AssertionError("5 batches and 6")

for make in (host, state):
    name = make.__name__
    leave(fit(directory / f"{name} whole", make()), f"{name} whole")
    try:
        fit(directory / name, make(), [ody.hook(leave_at_nine, ody.every(steps=1))])
    except KeyError:
        assert ody.store.Reader(directory / name / "checkpoints").latest() in (6, 9)
    leave(fit(directory / name, make()), name)
"""
)


@pytest.mark.slow
def test_each_process_reads_its_share_and_goes_on_with_it(tmp_path):
    run(READ, tmp_path)
    found = {path.stem: pickle.loads(path.read_bytes()) for path in tmp_path.glob("*.pickle")}
    for name in ("host", "state"):
        for me in (0, 1):
            examples.assert_same(found[f"{name}{me}"], found[f"{name} whole0"])
    valid = examples.arrays(24, seed=1)
    alone = ody.fit(
        examples.linear_task(), optax.adam,
        ody.HostDataset(examples.arrays(), 8, shuffle=True), ody.HostDataset(valid, 8),
        epochs=4, learning_rate=0.05, writers=[],
    )  # fmt: skip
    for name, column in alone.history.items():
        np.testing.assert_allclose(found["host whole0"][1][name], column, rtol=1e-4)
    losses = found["state whole0"][1]["valid/rarely/loss"]
    assert np.isnan(losses).tolist() == [True, True, False, True]


# A hook measures on each process; what process 0 finds is history, is monitored, and is saved.
MEASURED = (
    PROGRAM
    + """
killed = len(sys.argv) > 2

def size(view):
    if killed and view.epoch == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"size": float(np.abs(np.asarray(view.model["w"])).sum()) + me}

def measured(directory):
    return ody.fit(
        examples.linear_task(), optax.adam, examples.train_data(), examples.valid_data(),
        epochs=7, learning_rate=0.05, hooks=[ody.hook(size, columns=("size",))], writers=[],
        callbacks=ody.chain(
            ody.early_stopping("size", 9, mode="max", restore_best=True),
            ody.checkpoint(ody.every(steps=3), keep_best=1, monitor="size", mode="min"),
        ),
        directory=directory, placement=placement,
    )

leave(measured(directory / "run"), "run")
leave(measured(directory / "whole"), "whole")
"""
)


@pytest.mark.slow
def test_columns_of_hooks_are_those_of_the_first_process_and_survive_a_kill(tmp_path):
    finish(start(MEASURED, tmp_path, "killed"), code=-signal.SIGKILL)
    assert ody.store.Reader(tmp_path / "run" / "checkpoints").latest() > 0
    run(MEASURED, tmp_path)
    found = {path.stem: pickle.loads(path.read_bytes()) for path in tmp_path.glob("*.pickle")}
    for name in ("run0", "run1", "whole1"):
        examples.assert_same(found[name], found["whole0"])
    history = found["whole0"][1]
    assert history["size"][0] < history["size"][-1]
    assert found["whole0"][3] == int(np.argmax(history["size"]))


def mesh_of(n):
    return ody.data_parallel(jax.sharding.Mesh(jax.devices()[:n], ("data",)))


@pytest.mark.slow
def test_terminated_killed_and_finished_by_two_processes(tmp_path):
    space = {}
    exec(FIT, space)  # the same run in this process
    fit = space["fit"]
    whole = fit(tmp_path / "here", mesh_of(4))
    fit(tmp_path / "of one", None, epochs=3)
    checkpoints = ody.store.Reader(tmp_path / "run" / "checkpoints")

    finish(start(TERMINATED, tmp_path), code=128 + signal.SIGTERM)
    saved = checkpoints.latest()
    assert 0 < saved < whole.steps
    finish(start(KILLED, tmp_path), code=-signal.SIGKILL)
    assert saved <= checkpoints.latest() < whole.steps
    run(FINISHED, tmp_path)

    found = {path.name: pickle.loads(path.read_bytes()) for path in tmp_path.glob("*.pickle")}
    for name in ("run0", "run1", "whole1"):
        examples.assert_same(found[f"{name}.pickle"], found["whole0.pickle"])
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "whole")]
    assert lines[0] == lines[1]
    # In one process XLA adds up in another order than Gloo does among several.
    for name in ("whole0", "of one0"):
        history = found[f"{name}.pickle"][1]
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4), history, dict(whole.history))

    # One process, with one device, goes on with what two have saved.
    assert fit(tmp_path / "run", None, epochs=EPOCHS + 2).epochs == EPOCHS + 2
    # And what two have saved in parts, on one device and in parts on other devices.
    two = ody.fully_sharded(jax.sharding.Mesh(jax.devices()[:2], ("data",)), min_size=1)
    for placement, epochs in ((None, EPOCHS), (two, EPOCHS + 2)):
        resumed = fit(tmp_path / "sharded", placement, epochs=epochs)
    for name, column in resumed.history.items():
        np.testing.assert_allclose(column[:EPOCHS], whole.history[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_all_processes_load_and_one_exports(tmp_path):
    run(LOADED, tmp_path)
    rows = np.arange(24.0, dtype=np.float32).reshape(8, 3)
    with ocp.StandardCheckpointer() as orbax:
        found = orbax.restore(tmp_path / "orbax")
    examples.assert_same(found, {"rows": rows + 2, "whole": np.full(5, 2, np.float32)})
    found = load_file(tmp_path / "params.safetensors")
    examples.assert_same(found, {"rows": rows + 1, "whole": np.full(5, 1, np.float32)})
    assert {path.name for path in tmp_path.iterdir()} == {
        "orbax", "params.safetensors", "pid0", "pid1", "run"
    }  # fmt: skip


def test_what_differs_is_named(monkeypatch):
    values = {"rate": 0.1, "data": {"x": np.arange(3), "y": jax.random.key(0)}}
    monkeypatch.setattr(_alike.jax, "process_count", lambda: 2)
    for number, name in enumerate(values):

        def decide(own, choose, what, number=number):
            other = [x + (i == number) for i, x in enumerate(own)]
            return choose([own, other])

        monkeypatch.setattr(_alike, "decide", decide)
        with pytest.raises(ValueError, match=f"process 1 has another {name} than process 0: every"):
            check_alike(values)
    monkeypatch.setattr(_alike, "decide", lambda own, choose, what: choose([own, own]))
    check_alike(values)
