"""Against real servers on the loopback: moto's S3, and an emulator of GCS."""

import contextlib
import multiprocessing
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

import odyssey_jax as ody
from odyssey_jax.store import (
    BucketPath,
    CheckpointInUseError,
    CheckpointSkippedWarning,
    CheckpointWriteError,
    Reader,
    Store,
    _objects,
    export,
)
from odyssey_jax.store._lease import Lease
from odyssey_jax.store._objects import Objects
from tests import examples
from tests.fit import test_elastic as elastic
from tests.processes import WATCHED, run, start
from tests.store.test_processes import COMMON, tree

pytestmark = pytest.mark.slow

EPOCHS = 12


@contextlib.contextmanager
def server(*command):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, *(part.format(port=port) for part in command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def s3():
    moto = server("-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}")
    with moto as endpoint, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", endpoint)
        patched.setenv("AWS_ACCESS_KEY_ID", "key")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("tests-bucket")
        yield "s3://tests-bucket"


def task_and_data():
    task = ody.pure_task({"w": jnp.ones((64, 64))}, lambda p, x: ((x @ p["w"]) ** 2).mean())
    rows = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    return task, ody.ArrayDataset(rows, batch_size=8, shuffle=True)


def train(directory, pause=0.0, **how):
    task, data = task_and_data()
    saving = ody.checkpoint(ody.every(epochs=1), keep_last=2)
    hooks = [ody.hook(lambda view: time.sleep(pause), ody.every(epochs=1))] if pause else []
    how = {"writers": [ody.JsonLines()], "callbacks": saving, "hooks": hooks, **how}
    return ody.fit(task, optax.adam(0.01), data, epochs=EPOCHS, directory=directory, **how)


def child(directory):
    """Trains on, and says when the training has begun."""
    train(directory, pause=0.2)


def test_killed_at_random_instants_and_resumed_to_the_bit(s3, tmp_path):
    url = f"{s3}/killed"
    whole = train(tmp_path / "whole")
    draw, killed = random.Random(0), 0
    spawn = multiprocessing.get_context("spawn")
    for _ in range(4):
        before = Reader(f"{url}/checkpoints").steps()
        process = spawn.Process(target=child, args=(url,))
        process.start()
        while process.is_alive() and Reader(f"{url}/checkpoints").steps() == before:
            time.sleep(0.02)
        process.join(draw.uniform(0.0, 0.3))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        for step in Reader(f"{url}/checkpoints").steps():
            Reader(f"{url}/checkpoints").verify(step)
    assert killed >= 3
    result = train(url)
    for one, other in zip(jax.tree.leaves(result.model), jax.tree.leaves(whole.model), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    lines = Objects(BucketPath(url)).read("metrics.jsonl")
    assert lines == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    steps = Reader(f"{url}/checkpoints").steps()
    folders = {name.split("/")[0] for name in Objects(BucketPath(f"{url}/checkpoints")).sizes()}
    assert {name for name in folders if name.isdigit()} == set(map(str, steps)), "all is swept"


def test_saved_kept_corrupt_and_read_again(s3):
    url = f"{s3}/store"
    with Store(url, keep_last=2, keep_best=1, monitor="loss") as store:
        for step, loss in enumerate([3.0, 1.0, 2.0, 4.0]):
            tree = {"w": np.full(3, float(step)), "large": np.full(3_000_000, step, np.float32)}
            store.save(step, tree, {"metrics": {"loss": loss}})
        store.wait()
        assert (store.steps(), store.best()) == ((1, 2, 3), 1)
        with pytest.raises(CheckpointInUseError):
            Store(url).acquire()
    objects = Objects(BucketPath(url))
    content = bytearray(objects.read("3/state/tree.large/0", 2**24))
    content[5] ^= 1
    objects.write("3/state/tree.large/0", bytes(content))
    with pytest.warns(CheckpointSkippedWarning, match="state/tree.large/0"):
        loaded = Reader(url).load()
    assert (loaded.step, loaded.tree["w"].tolist()) == (2, [2.0] * 3)


def test_parameters_of_another_library_into_a_placement(s3, tmp_path):
    kernel = np.arange(32, dtype=np.float32).reshape(8, 4)
    file = export({"dense": {"kernel": kernel}}, tmp_path / "x.safetensors", "safetensors")
    Objects(BucketPath(f"{s3}/models")).upload({"model.safetensors": file})
    placement = ody.fully_sharded(jax.sharding.Mesh(jax.devices()[:4], ("data",)), min_size=1)
    for url in (f"{s3}/models", f"{s3}/models/model.safetensors"):
        found = ody.load_params(url, placement=placement)["dense"]["kernel"]
        np.testing.assert_array_equal(found, kernel)
        assert [shard.data.shape for shard in found.addressable_shards] == [(2, 4)] * 4


def test_of_writers_that_race_one_wins(s3):
    leases = [Lease(Objects(BucketPath(f"{s3}/race"))) for _ in range(8)]

    def take(lease):
        with contextlib.suppress(CheckpointInUseError):
            lease.acquire(wait=False)

    threads = [threading.Thread(target=take, args=[lease]) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lease.held for lease in leases].count(True) == 1
    for lease in leases:
        lease.release()


def test_a_server_that_is_gone(s3, monkeypatch, tmp_path):
    with server("-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}") as endpoint:
        how = {"endpoint_url": endpoint, **_objects._OPTIONS["s3"]}
        fs = fsspec.filesystem("s3", use_listings_cache=False, **how)
        fs.mkdir("gone-bucket")
        monkeypatch.setattr(fsspec, "filesystem", lambda *args, **how: fs)
        store = Store("s3://gone-bucket/run")
        store.save(1, {"w": np.zeros(3)}, {})
        store.wait()
    begun = time.monotonic()
    store.save(2, {"w": np.zeros(3)}, {})
    assert time.monotonic() - begun < 1, "the loop does not wait for the server"
    with pytest.raises(CheckpointWriteError, match="step 2 was not written to 's3://gone-bucket"):
        store.wait()
    store.close()


def test_an_emulator_of_gcs(monkeypatch):
    """It ignores the condition of a put, which the store notices and says."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    program = "from gcp_storage_emulator.__main__ import main; import sys; main(sys.argv[1:])"
    options = ("--host=127.0.0.1", "--port={port}", "--in-memory", "--default-bucket=emulated")
    with server("-c", program, "start", *options) as endpoint:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        fs = fsspec.filesystem("gs", token="anon", use_listings_cache=False)
        monkeypatch.setattr(fsspec, "filesystem", lambda *args, **how: fs)
        url = "gs://emulated/run"
        with Store(url, keep_last=2) as store:
            with pytest.warns(match="has no conditional put"):
                store.acquire()
            for step in range(4):
                store.save(step, {"w": np.full(3, float(step))}, {})
            store.wait()
        reader = Reader(url)
        assert reader.steps() == (2, 3)
        assert reader.restore({"w": np.zeros(3)}).tree["w"].tolist() == [3.0] * 3
        assert not any(n.startswith("0/") for n in Objects(BucketPath(url)).sizes())


# Several processes, which share no directory.

OWN_MACHINE = """
import tempfile
from pathlib import Path
tempfile.tempdir = tempfile.mkdtemp(dir=sys.argv.pop())
"""

STORE = (
    COMMON
    + OWN_MACHINE
    + """
from odyssey_jax.store import _objects
_objects._PAUSE = 0.0

try:
    Store("memory://each-has-its-own")
    raise AssertionError
except CheckpointError as error:
    assert "is not shared: process 1 does not see what process 0 writes there" in str(error)

store = Store(directory, keep_last=2, keep_best=1, monitor="loss")
objects, staging = store._folder._objects, store._folder.path
for step in range(1, 6):
    store.save(step, make(step), {"metrics": {"loss": float((step - 2) ** 2)}})
store.wait()
assert (store.steps(), store.latest(), store.best()) == ((2, 4, 5), 5, 2)
assert [path.name for path in staging.iterdir()] == ["writer.lock"]
same(store.restore(make(0)).tree, make(5))
same(store.restore(make(0), "best").tree, make(2))
# Each has downloaded its own part, and deletes it with the step.
assert {file.name for file in staging.glob("5/state/tree.cells/[0-9]*")} == {f"{me}.0", f"{me}.1"}
store.pin(4)
store.forget([5])
assert (store.steps(), store.pinned()) == ((2, 4), (4,))
assert not list(staging.glob("5*"))
store.unpin(4)

# An upload that is refused to one process fails the save of all, and leaves nothing.
put_file = objects._fs.put_file
for culprit in range(jax.process_count()):
    def refused(file, path, **how):
        raise PermissionError("Access Denied")
    if me == culprit:
        objects._fs.put_file = refused
    store.save(6, make(6), {})
    try:
        store.wait()
        raise AssertionError
    except CheckpointWriteError as error:
        who = "" if me == culprit else f"process {culprit}: "
        begin = f"checkpoint of step 6 was not written to {directory!r}: {who}'{directory}/6/"
        assert str(error).startswith(begin), error
        assert str(error).endswith("could not be written: PermissionError: Access Denied"), error
    objects._fs.put_file = put_file
    store._background.join()
    assert store.steps() == (2, 4)
    assert not any(name.startswith("6") for name in objects.sizes()) or me
store.save(6, make(6), {})
store.wait()

# Each verifies a share of the files, and hears what is wrong with another's.
damaged = "6/state/tree.cells/0.0"
content = objects.read(damaged)
if me == 0:
    objects.write(damaged, content[:-1] + bytes([content[-1] ^ 1]))
store.steps()  # all wait until it is written
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert store.latest(verify=True) == 4
assert "state/tree.cells/0.0 is damaged" in str(caught[0].message)
here = {file.relative_to(staging).as_posix() for file in staging.glob("4/state/*/[0-9]*")}
there = {name for name in objects.sizes("4/state") if name.rpartition("/")[2][0].isdigit()}
assert set() < here < there, here
if me == 0:
    objects.write(damaged, content)
store.close()

# What does not change is uploaded once, by each what it has.
held = [name for name in make() if name not in ("cells", "number")]
with Store(f"{directory}-constant", keep_last=None) as other:
    for step in (1, 2):
        other.save(step, make(1), {}, constant=held)
        other.wait()
    same(other.restore(make(0)).tree, make(1))
    names = set(other._folder._objects.sizes())
    other.save(3, make(1), {}, constant=held[:-1])  # another array of those that are packed
    other.wait()
    same(other.restore(make(0)).tree, make(1))
(constant,) = {name.split("/")[0] for name in names if name.startswith("constant.")}
for file in ("tree.rows/0.0", "tree.rows/1.0", "packed.float32_constant/0"):
    assert {name for name in names if name.endswith(file)} == {f"{constant}/state/{file}"}
assert {f"{step}/state/tree.cells/1.0" for step in (1, 2)} < names
"""
)


def test_several_processes_save_and_one_restores(s3, tmp_path):
    url = f"{s3}/several"
    run(STORE, url, tmp_path)
    with Store(url) as store:
        assert store.latest(verify=True) == 6
        examples.assert_same(store.restore(tree(0)).tree, tree(6))
    examples.assert_same(Reader(f"{url}-constant").restore(tree(0)).tree, tree(1))
    objects = Objects(BucketPath(url))
    objects.download({name: tmp_path / "copy" / name for name in objects.sizes()})
    step, plain = tmp_path / "copy" / "6" / "state", ocp.RestoreArgs(restore_type=np.ndarray)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        how = jax.tree.map(lambda _: plain, orbax.metadata(step).item_metadata.tree)
        found = orbax.restore(step, args=ocp.args.PyTreeRestore(restore_args=how))["tree"]
    np.testing.assert_array_equal(found["cells"], tree(6)["cells"])  # of both processes


FIT = (
    elastic.FIT
    + OWN_MACHINE
    + """
import os, pickle, signal, sys
from odyssey_jax.store import _objects

url, ending, me = sys.argv[1], sys.argv[2], jax.process_index()

def parts(tree):
    return [[np.asarray(s.data) for s in x.addressable_shards] for x in jax.tree.leaves(tree)]
"""
)

WHOLE = (
    FIT
    + """
for kind in ("replicated", "sharded"):
    fit(f"{url}/half {kind}", placed(kind), 6)
    result = fit(f"{url}/whole {kind}", placed(kind), 12)
    found = parts((result.state, result.best)), dict(result.history), result.best_epoch
    Path(f"{ending}/whole {kind}{me}").write_bytes(pickle.dumps(found))
"""
)

# Process 1 is killed between two of its objects; or process 0, before its second marker.
KILLED = (
    FIT
    + """
write, upload, times = _objects.Objects.write, _objects.Objects.upload, []

def die_in_the_middle(objects, files):
    times.append(files)
    if me == 1 and len(times) == 2:
        upload(objects, dict(list(files.items())[:1]))
        os.kill(os.getpid(), signal.SIGKILL)
    upload(objects, files)

def die_before_the_marker(objects, name, content):
    times.extend(name for _ in [0] if name.endswith(".committed"))
    if len(times) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(objects, name, content)

if ending == "1":
    _objects.Objects.upload = die_in_the_middle
else:
    _objects.Objects.write = die_before_the_marker
fit(f"{url}/killed", placed("sharded"), 12)
"""
)

RESUMED = (
    FIT
    + """
for name in ("killed", "half replicated", "half sharded"):
    result = fit(f"{url}/{name}", placed(name.split()[-1].replace("killed", "sharded")), 12)
    found = parts((result.state, result.best)), dict(result.history), result.best_epoch
    Path(f"{ending}/{name}{me}").write_bytes(pickle.dumps(found))
laid_out = ody.load_params(f"{url}/killed", placement=placed("sharded"))
whole = ody.load_params(f"{url}/killed")
for name, x in laid_out.items():
    for shard in x.addressable_shards:
        np.testing.assert_array_equal(whole[name][shard.index], shard.data)
if me == 1:  # and the other goes on
    ody.export_params(f"{url}/killed", f"{ending}/killed.safetensors")
"""
)


def test_runs_of_two_processes_killed_while_they_upload(s3, tmp_path):
    url = f"{s3}/two"
    run(WHOLE, url, tmp_path, tmp_path)
    for run_of in ("half replicated", "half sharded"):
        objects = Objects(BucketPath(f"{url}/{run_of}"))
        files = {name: tmp_path / "copy" / run_of / name for name in objects.sizes()}
        objects.download(files)
        Objects(BucketPath(f"{url}/alone/{run_of}")).upload(files)
    store = Objects(BucketPath(f"{url}/killed/checkpoints"))
    for victim in (1, 0):
        running = start(KILLED, url, victim, tmp_path, begin=WATCHED)
        errors = [process.communicate(timeout=200)[1] for process in running]
        assert running[victim].returncode == -signal.SIGKILL, errors
        assert running[1 - victim].returncode in (os.EX_TEMPFAIL, -signal.SIGABRT), errors
        folders = {int(x[0]) for n in store.sizes() if (x := n.split("/"))[0].isdigit()}
        steps = Reader(f"{url}/killed/checkpoints").steps()
        assert steps
        assert folders > set(steps), "what was being uploaded is no step"
    run(RESUMED, url, tmp_path, tmp_path)
    steps = Reader(f"{url}/killed/checkpoints").steps()
    assert {name.split("/")[0] for name in store.sizes() if "/" in name} == set(map(str, steps))

    read = lambda name: pickle.loads((tmp_path / name).read_bytes())
    for me in range(2):
        for name in ("killed", "half sharded"):
            examples.assert_same(read(f"{name}{me}"), read(f"whole sharded{me}"))
        examples.assert_same(read(f"half replicated{me}"), read(f"whole replicated{me}"))
    lines = {n: Objects(BucketPath(f"{url}/{n}")).read("metrics.jsonl") for n in
             ("killed", "whole sharded")}  # fmt: skip
    assert lines["killed"] == lines["whole sharded"]
    examples.assert_same(
        load_file(tmp_path / "killed.safetensors"), ody.load_params(f"{url}/whole sharded")
    )

    space = {}
    exec(elastic.FIT, space)  # the same run, on one process
    for kind in ("replicated", "sharded"):
        history, best = read(f"whole {kind}0")[1:]
        result = space["fit"](f"{url}/alone/half {kind}", space["placed"](kind, 4), 12)
        assert result.best_epoch == best
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3)
        jax.tree.map(close, dict(result.history), history)
