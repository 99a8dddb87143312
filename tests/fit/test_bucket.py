"""A run in a bucket: saved, logged, interrupted and read there."""

import json
import secrets
import tempfile

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.cli import main
from odyssey_jax.fit._copied_logs import CopiedLogs
from odyssey_jax.store import BucketPath, CheckpointInUseError
from odyssey_jax.store._objects import Objects
from odyssey_jax.writers import Live

TASK = ody.pure_task({"w": jnp.ones(3)}, lambda p, x: ((p["w"] - x) ** 2).mean())
DATA = ody.ArrayDataset(np.arange(24, dtype=np.float32).reshape(8, 3), batch_size=4, shuffle=True)
LIVE = Live(0, 1.0)


@pytest.fixture
def url(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    name = secrets.token_hex(4)
    yield f"memory://{name}/runs/one"
    store = fsspec.filesystem("memory").store
    for path in [path for path in store if path.startswith(f"/{name}/")]:
        del store[path]


def fit(directory, epochs=4, **how):
    saving = ody.checkpoint(ody.every(epochs=1), keep_best=1, monitor="valid/loss")
    how = {"callbacks": saving, "writers": [ody.JsonLines()], **how}
    return ody.fit(TASK, optax.adam(0.1), DATA, DATA, epochs=epochs, directory=directory, **how)


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def stop_at(epoch):
    def act(view):
        if view.epoch == epoch:
            raise ConnectionError("the hook fails")
        return {"epochs": float(view.epoch)}

    return ody.hook(act, ody.every(epochs=1))


def test_interrupted_and_resumed_to_the_bit(url, tmp_path, capsys):
    whole = fit(tmp_path / "whole", hooks=[stop_at(9)])
    with pytest.raises(ConnectionError):
        fit(url, hooks=[stop_at(2)])
    result = fit(url, hooks=[stop_at(9)])
    assert f"resumed from step 4 of {url}" in capsys.readouterr().err
    assert bits(result.model) == bits(whole.model)
    assert bits(ody.load_params(url)) == bits(whole.model)
    logs = {name: Objects(BucketPath(url)).read(name) for name in ("metrics.jsonl", "shown.jsonl")}
    assert logs["metrics.jsonl"] == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    # The hook was not heard of at step 4, where it failed.
    steps = [json.loads(line)["step"] for line in logs["shown.jsonl"].splitlines()]
    assert steps == [2, 6, 8]
    (run,) = ody.runs.find_runs(url.removesuffix("/one"))
    assert (str(run.directory), run.epochs, run.troubles) == (url, 4, ())
    assert run.history["valid/loss"].shape == (4,)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"], "nothing stays here"


def test_the_commands_read_it(url, tmp_path, capsys):
    fit(url, epochs=2)
    assert main(["checkpoints", url, "verify"]) == 0
    assert "good" in capsys.readouterr().out
    assert main(["checkpoints", url, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["directory"] == f"{url}/checkpoints"
    assert main(["runs", url.removesuffix("/one")]) == 0
    assert "one  2 of 2" in capsys.readouterr().out
    assert main(["checkpoints", url, "diff", "latest", f"{url}:best"]) == 0
    path = ody.export_params(url, tmp_path / "params.safetensors")
    assert path.is_file()
    assert main(["checkpoints", url, "prune", "--keep-last", "1", "--yes"]) == 0
    assert main(["checkpoints", f"{url}/nothing"]) != 0


def test_a_second_run_is_refused_before_anything_compiles(url):
    traced = []
    task = ody.pure_task(jnp.zeros(()), lambda w, x: traced.append(1) or ((w - x) ** 2).mean())
    with ody.Store(f"{url}/checkpoints") as store:
        store.acquire()
        with pytest.raises(CheckpointInUseError, match="another Store of this program"):
            ody.fit(task, optax.sgd(0.1), DATA, epochs=1, directory=url, writers=[])
    assert not traced


def test_a_run_of_ones_own_loop(url):
    def train(steps):
        with ody.Run(url) as run:
            w = run.restore(jnp.zeros(()))
            for step in run.steps(steps):
                w = w + 1
                run.log(step, {"w": w})
                run.save_if_due(w)
            return float(w), len(run.rows)

    assert (train(2), train(5)) == ((2.0, 2), (5.0, 5))
    assert Objects(BucketPath(url)).read("metrics.jsonl").count(b"\n") == 5


def test_a_trace_needs_a_local_directory(url):
    with pytest.raises(ValueError, match="give profile a local directory"):
        fit(url, hooks=[ody.profile(range(2, 4))])


def test_logs_are_copied_from_time_to_time_and_at_the_end(url, tmp_path):
    now = [0.0]
    objects = Objects(BucketPath(url))
    objects.write("old.txt", b"old")
    logs = CopiedLogs(BucketPath(url), clock=lambda: now[0])
    logs.open(None)
    (logs.path / "new.txt").write_text("1")
    logs.write([], LIVE)
    assert set(objects.sizes()) == {"old.txt"}, "it is not time yet"
    now[0] = 10.0
    logs.write([], LIVE)
    logs._running.result()
    assert objects.read("new.txt") == b"1"
    (logs.path / "new.txt").write_text("12")
    (logs.path / "old.txt").unlink()
    logs.close()
    assert objects.sizes() == {"new.txt": 2}
    assert not logs.path.exists()


def test_logs_that_cannot_be_copied_are_a_writer_that_fails(url, monkeypatch):
    monkeypatch.setattr("odyssey_jax.store._objects._PAUSE", 0.0)
    logs = CopiedLogs(BucketPath(url), clock=iter(range(0, 1000, 100)).__next__)
    logs.open(None)
    (logs.path / "new.txt").write_text("1")
    monkeypatch.setattr(Objects, "replace", lambda *args: 1 / 0)
    logs.write([], LIVE)
    while not logs._running.done():
        pass
    with pytest.raises(ZeroDivisionError):
        logs.write([], LIVE)
    with pytest.raises(ZeroDivisionError):
        logs.close()


def test_logs_that_could_not_be_brought_are_not_overwritten(url, monkeypatch):
    monkeypatch.setattr("odyssey_jax.store._objects._PAUSE", 0.0)
    objects = Objects(BucketPath(url))
    objects.write("metrics.jsonl", b"precious")
    monkeypatch.setattr(type(objects._fs), "get_file", lambda fs, *args: 1 / 0)
    logs = CopiedLogs(BucketPath(url))
    with pytest.raises(Exception, match="could not be read"):
        logs.open(None)
    logs.close()
    assert objects.read("metrics.jsonl") == b"precious"
