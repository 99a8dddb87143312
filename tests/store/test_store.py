"""The store's behaviour: what it lists, keeps, refuses and says."""

import json
import logging
import math
import os
import threading

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import odyssey_jax.store._format as format_module
from odyssey_jax.store import (
    FORMAT_VERSION,
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSkippedWarning,
    CheckpointVersionError,
    Reader,
    Store,
)
from odyssey_jax.store._lock import WriterLock

TREE = {"w": np.arange(3.0)}


def fill(store, losses):
    for step, loss in enumerate(losses):
        store.save(step, {"w": TREE["w"] + step}, {"metrics": {"loss": loss}})
    store.wait()


def test_the_last_and_the_best_are_kept(tmp_path):
    losses = [0.5, 0.1, math.nan, 0.4, 0.3, math.nan, 0.2]
    with Store(tmp_path, keep_last=1, keep_best=2, monitor="loss") as store:
        fill(store, losses)
        assert store.steps() == (1, 6)
        assert (store.latest(), store.best()) == (6, 1)
        restored = store.restore(TREE, "best")
        assert restored.step == 1
        np.testing.assert_array_equal(restored.tree["w"], TREE["w"] + 1)
        assert restored.metadata["metrics"] == {"loss": 0.1}
    with Store(tmp_path, keep_last=2, keep_best=1, monitor="loss", mode="max") as again:
        assert (again.steps(), again.best()) == ((1, 6), 6)
        again.save(7, TREE, {"metrics": {"loss": 0.05}})
        again.wait()
        assert again.steps() == (6, 7)


def test_nothing_is_deleted_before_the_newer_one_is_committed(tmp_path, monkeypatch):
    with Store(tmp_path) as store:
        fill(store, [0.5])
        listed = []
        write = type(store._writer).write
        monkeypatch.setattr(
            type(store._writer),
            "write",
            lambda *a: (listed.append(store.steps()), write(*a), listed.append(store.steps())),
        )
        store.save(1, TREE, {})
        store.wait()
        assert listed == [(0,), (0, 1)]
        assert store.steps() == (1,)


def test_save_returns_before_the_commit(tmp_path, monkeypatch):
    with Store(tmp_path) as store:
        fill(store, [0.5])
        gate = threading.Event()
        write = type(store._writer).write
        monkeypatch.setattr(
            type(store._writer), "write", lambda *args: (gate.wait(30), write(*args))
        )
        store.save(1, TREE, {})
        assert store.latest() == 0
        gate.set()
        store.wait()
        assert store.latest() == 1


def test_metadata(tmp_path):
    given = {
        "epoch": np.int64(2),
        "metrics": {"loss": jnp.float32(0.5), "other": math.nan},
        "schedule": {"name": "cosine", "boundaries": (1, 2)},
        "configuration": {"limit": math.inf, 3: None},
    }
    with Store(tmp_path, clock=lambda: 12.5) as store:
        store.save(7, TREE, given)
        store.wait()
        found = store.metadata(7)
    assert math.isnan(found["metrics"].pop("other"))
    versions = found.pop("versions")
    assert len(found.pop("token")) == 16
    assert found == {
        "format_version": FORMAT_VERSION,
        "step": 7,
        "timestamp": 12.5,
        "retention": {
            "keep_last": 1,
            "keep_best": 0,
            "keep_every": None,
            "monitor": None,
            "mode": "min",
        },
        "epoch": 2,
        "metrics": {"loss": 0.5},
        "schedule": {"name": "cosine", "boundaries": [1, 2]},
        "configuration": {"limit": math.inf, 3: None},
    }
    assert set(versions) == {"odyssey_jax", "jax", "jaxlib", "flax", "optax", "orbax", "python"}


def test_the_files_are_strict_json(tmp_path):
    def refuse(name):
        raise ValueError(name)

    with Store(tmp_path) as store:
        store.save(1, {"nan": math.nan}, {"metrics": {"loss": -math.inf}})
    for item in ("metadata", "layout"):
        json.loads((tmp_path / "1" / item / "metadata").read_text(), parse_constant=refuse)


def test_a_newer_format_is_refused_and_left_alone(tmp_path, monkeypatch):
    with Store(tmp_path, keep_last=1) as store:
        monkeypatch.setattr(format_module, "FORMAT_VERSION", FORMAT_VERSION + 1)
        fill(store, [0.1])
        monkeypatch.undo()
        message = (
            f"step 0 .* has format version {FORMAT_VERSION + 1}, and this odyssey_jax .* reads "
            f"up to {FORMAT_VERSION}.*: upgrade"
        )
        with pytest.raises(CheckpointVersionError, match=message):
            store.restore(TREE)
        with pytest.raises(CheckpointVersionError, match=message):
            store.metadata(0)
    with Store(tmp_path, keep_last=1, monitor="loss") as store:
        with pytest.raises(CheckpointVersionError, match=message):
            store.best()
        store.save(1, TREE, {"metrics": {"loss": 1.0}})
        store.wait()
        assert store.latest(verify=True) == 1
        assert store.steps() == (0, 1), "a checkpoint that cannot be read is not deleted"


def test_a_checkpoint_that_orbax_alone_wrote_is_no_riddle(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.StandardSave(TREE))
    reader = Reader(tmp_path)
    with pytest.raises(
        CheckpointError, match="step 3 .* is not odyssey_jax's, but another"
    ) as caught:
        reader.restore(TREE)
    assert not isinstance(caught.value, CheckpointCorruptError)
    assert reader.size(3) > 0
    with Store(tmp_path, keep_last=None) as store:
        store.save(1, TREE, {})
    with pytest.warns(CheckpointSkippedWarning, match=r"checksums\.json is missing: .* not odyss"):
        assert reader.restore(TREE).step == 1  # beside a store's own it hides none of them


def test_a_step_may_come_as_an_array(tmp_path):
    with Store(tmp_path) as store:
        store.save(jnp.int32(3), TREE, {})
        store.wait()
        assert store.restore(TREE, np.int64(3)).step == 3


def test_metrics_may_be_absent_with_a_monitor(tmp_path):
    with Store(tmp_path, monitor="loss") as store:
        store.save(1, TREE, {})
        store.wait()
        assert (store.latest(), store.best()) == (1, None)
        with pytest.raises(CheckpointNotFoundError, match=r"no checkpoint .* a value of 'loss'"):
            store.restore(TREE, "best")


def test_what_is_not_there_is_said(tmp_path):
    with Store(tmp_path) as store:
        with pytest.raises(CheckpointNotFoundError, match=r"there is no checkpoint .*; save one"):
            store.restore(TREE)
        fill(store, [0.1])
        with pytest.raises(CheckpointNotFoundError, match=r"no step 5 in .*; committed are \[0\]"):
            store.restore(TREE, 5)
        with pytest.raises(CheckpointNotFoundError, match=r"no steps \[5\] .*committed are \[0\]"):
            store.forget([0, 5])
        with pytest.raises(ValueError, match="best needs a monitor"):
            store.restore(TREE, "best")
        with pytest.raises(
            ValueError, match="step must be an integer of at least 0, .*, got 'last'"
        ):
            store.restore(TREE, "last")
        assert store.steps() == (0,)


def test_forget_and_save_again(tmp_path):
    with Store(tmp_path, keep_last=None, monitor="loss") as store:
        fill(store, [0.3, 0.2, 0.1])
        store.forget([1, 2])
        assert (store.steps(), store.best()) == ((0,), 0)
        store.save(1, TREE, {"metrics": {"loss": 0.5}})
        store.wait()
        assert (store.steps(), store.best()) == ((0, 1), 0)


def test_a_directory_that_is_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for directory in (file, file / "below"):
        with pytest.raises(CheckpointError, match=r"'.*file' is a file; give another directory"):
            Store(directory)
    assert file.read_text() == "mine"


def test_other_files_in_the_directory_are_left_alone(tmp_path):
    names = ["notes.txt", "007", "12.txt", "best", "x.orbax-checkpoint-tmp"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "5x").write_text("a file")
    with Store(tmp_path) as store:
        assert store.steps() == ()
        fill(store, [0.1, 0.2])
        assert store.steps() == (1,)
    assert {p.name for p in tmp_path.iterdir()} == {*names, "5x", "1"}


@pytest.mark.parametrize("kind", ["a file", "a link, which is not followed"])
def test_what_would_end_a_save_by_its_name_is_refused_before_it(tmp_path, kind):
    with Store(tmp_path / "store") as store:
        fill(store, [0.1])
    path = tmp_path / "store" / "5"
    if kind == "a file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "store" / "0")
    with pytest.raises(CheckpointError, match=f"5' is {kind}, and no checkpoint; move it away"):
        Store(tmp_path / "store")
    reader = Reader(tmp_path / "store")
    assert (reader.steps(), reader.load().step) == ((0,), 0)
    with pytest.raises(CheckpointNotFoundError, match=f"are \\[0\\]; '.*5' is {kind}"):
        reader.load(5)
    assert os.path.lexists(path)


@pytest.mark.parametrize("name", ["٣", "3\n", "03", "+3", "3.0"])
def test_other_ways_to_write_a_number_are_no_steps(tmp_path, name):
    (tmp_path / name).mkdir()
    with Store(tmp_path) as store:
        assert store.steps() == ()
        fill(store, [0.1])
        assert store.steps() == (0,)


def test_leftovers_are_cleaned_but_not_while_somebody_saves(tmp_path):
    names = ["3.orbax-checkpoint-tmp", "4.orbax-checkpoint-tmp-1234", "2.deleted"]
    for name in names:
        (tmp_path / name / "state").mkdir(parents=True)
    lock = WriterLock(tmp_path)
    lock.acquire()
    with Store(tmp_path) as reader:
        assert reader.steps() == ()
        assert {p.name for p in tmp_path.iterdir()} == {*names, "writer.lock"}
        lock.release()
        reader.acquire()
        assert [p.name for p in tmp_path.iterdir()] == ["writer.lock"]
    (tmp_path / names[0]).mkdir()
    with Store(tmp_path) as store:
        assert store.steps() == ()
        assert not list(tmp_path.iterdir())


def test_one_unreadable_step_hides_no_other(tmp_path):
    with Store(tmp_path, keep_last=None, monitor="loss") as store:
        fill(store, [0.3, 0.2, 0.1])
    (tmp_path / "2" / "metadata" / "metadata").write_text("")
    (tmp_path / "1" / "layout" / "metadata").write_text("{}")
    with Store(tmp_path, keep_last=None, monitor="loss") as store:
        assert (store.steps(), store.best()) == ((0, 1, 2), 1)
        with pytest.raises(CheckpointCorruptError, match=r"step 2 .* read: metadata/metadata is 0"):
            store.restore(TREE, 2)
        with pytest.raises(CheckpointCorruptError, match=r"step 1 .* read: layout/metadata is 2"):
            store.restore(TREE, 1)
        with pytest.warns(CheckpointSkippedWarning):
            assert store.restore(TREE).step == 0


def test_a_closed_store_reads_and_refuses_to_save(tmp_path):
    store = Store(tmp_path)
    fill(store, [0.1])
    store.close()
    store.close()
    assert store.restore(TREE).step == 0
    with pytest.raises(RuntimeError, match="is closed"):
        store.save(1, TREE, {})


def test_orbax_logs_nothing_on_the_terminal(tmp_path, capfd, caplog):
    with caplog.at_level(logging.INFO, "absl"):
        with Store(tmp_path) as store:
            fill(store, [0.1, 0.2])
            store.restore(TREE)
        assert not [r for r in caplog.records if "orbax" in r.pathname]
    assert capfd.readouterr() == ("", "")
    logging.getLogger("absl").warning("others still can")
    assert caplog.messages[-1] == "others still can"
