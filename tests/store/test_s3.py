"""Against real servers on the loopback: moto's S3, and an emulator of GCS."""

import contextlib
import multiprocessing
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
import pytest

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
