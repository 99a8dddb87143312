"""Leaves that do not change: their bytes are there once, and each step is whole all the same."""

import errno
import json
import multiprocessing
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from odyssey_jax.store import (
    BucketPath,
    CheckpointCorruptError,
    CheckpointNotFoundError,
    CheckpointSkippedWarning,
    CheckpointWriteError,
    CheckpointWriteWarning,
    Reader,
    Store,
    _linked,
    _orbax,
)
from odyssey_jax.store._layout import plan
from odyssey_jax.store._leaves import flatten
from odyssey_jax.store._objects import Objects
from odyssey_jax.store._snapshot import Staging, sources, take
from tests.store.conftest import MEMORY, assert_same, rows

LARGE = "tree.base.large"
SMALL = "packed.float32_constant"
NODES = ["base"]


def base(value=1.0):
    return {"large": jnp.full((512, 1024), value, jnp.int32), "small": jnp.arange(3.0), "n": 5}


def tree(step, value=1.0):
    return {"base": base(value), "lora": jnp.full(4, float(step))}


def save(store, *steps, value=1.0, **metadata):
    for step in steps:
        store.save(step, tree(step, value), metadata, constant=NODES)
    store.wait()
    store._background.join()  # and what was deleted is gone


def file(directory, step, array=LARGE):
    return directory / str(step) / "state" / array / ("0.0" if array == LARGE else "0")


def inodes(directory, array=LARGE):
    """Which file each step has."""
    steps = sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
    return [file(directory, step, array).stat().st_ino for step in steps]


def test_once_on_the_disk_and_whole_in_each_step(tmp_path):
    with Store(tmp_path / "run", keep_last=None) as store:
        save(store, 1, 2, 3)
        for step in (1, 2, 3):
            assert_same(store.restore(tree(0), step).tree, tree(step))
            assert store.verify(step) > 2**21
    for array in (LARGE, SMALL):
        assert len(set(inodes(tmp_path / "run", array))) == 1
        assert file(tmp_path / "run", 3, array).stat().st_nlink == 3
    # Orbax reads them by their names, and a step that is copied alone has all.
    with ocp.StandardCheckpointer() as orbax:
        found = orbax.restore(tmp_path / "run" / "3" / "state")["tree"]["base"]["large"]
    assert (found == 1).all()
    shutil.copytree(tmp_path / "run" / "3", tmp_path / "copy" / "3")
    assert_same(Reader(tmp_path / "copy").restore(tree(0)).tree, tree(3))


def test_of_later_saves_the_values_are_not_looked_at(tmp_path):
    with Store(tmp_path) as store:
        save(store, 1)
        gone = tree(2)
        for leaf in (gone["base"]["large"], gone["base"]["small"]):
            leaf.delete()
        store.save(2, gone, {}, constant="base")
        store.wait()
        assert_same(store.restore(tree(0)).tree, tree(2))


def test_what_is_spread_over_devices_is_linked_to_alike(tmp_path):
    spread = {"w": jax.device_put(jnp.arange(16.0).reshape(8, 2), rows(4)), "n": jnp.ones(2)}
    with Store(tmp_path, keep_last=None) as store:
        for step in (1, 2):
            store.save(step, spread, {}, constant=["w"])
            store.wait()
            assert_same(store.restore(jax.tree.map(jnp.zeros_like, spread)).tree, spread)
    found = list((tmp_path / "2" / "state" / "tree.w").iterdir())
    assert (len(found), {path.stat().st_nlink for path in found}) == (5, {2})


def test_what_is_packed_on_a_device_is_left_out_there(tmp_path):
    values = {"large": jnp.arange(2.0**18), "small": jnp.ones(3), "other": jnp.ones(2)}
    leaves, data, _ = flatten(values)
    described, data = sources(leaves, data, on_device=True)
    layout = plan(described, constant={0, 2})
    assert sorted(layout.constant) == ["float32_0_constant", "tree.large"]
    packed, whole, _, _ = take(layout, data, Staging(), layout.constant).on_host(layout)
    assert (list(packed), list(whole)) == (["float32_0"], [])
    packed, whole, _, _ = take(layout, data, Staging()).on_host(layout)
    assert (sorted(packed), list(whole)) == (["float32_0", "float32_0_constant"], ["tree.large"])


def test_bytes_live_as_long_as_a_step_has_them(tmp_path):
    kept = {"keep_last": 1, "keep_best": 1, "monitor": "loss"}
    with Store(tmp_path, **kept) as store:
        for step, loss in ((1, 0.5), (2, 0.1), (3, 0.7), (4, 0.6)):
            save(store, step, metrics={"loss": loss})
        assert store.steps() == (2, 4)
        assert file(tmp_path, 4).stat().st_nlink == 2
        shutil.rmtree(tmp_path / "2")  # by hand
        save(store, 5, metrics={"loss": 0.9})
        assert store.steps() == (4, 5)
        store.pin(4)
        save(store, 6, metrics={"loss": 0.9})
        assert (store.steps(), file(tmp_path, 6).stat().st_nlink) == ((4, 6), 2)
        assert (store.freed([6]) < 2**21, store.freed([4, 6]) > 2**21) == (True, True)
        with pytest.raises(CheckpointNotFoundError, match="no step 5"):
            store.freed([4, 5])
        store.unpin(4)
        store.forget([4])
        assert_same(store.restore(tree(0)).tree, tree(6))
        assert file(tmp_path, 6).stat().st_nlink == 1


def test_another_store_finds_them_by_their_bytes(tmp_path):
    with Store(tmp_path, keep_last=None) as store:
        save(store, 1)
    with Store(tmp_path, keep_last=None) as store:
        save(store, 2, 3)
    with Store(tmp_path, keep_last=None) as store:
        save(store, 4, 5, value=2.0)  # another base, of the same form
        assert_same(store.restore(tree(0), 3).tree, tree(3))
        assert_same(store.restore(tree(0), 5).tree, tree(5, value=2.0))
    one, two = inodes(tmp_path)[0], inodes(tmp_path)[3]
    assert inodes(tmp_path) == [one, one, one, two, two]
    assert len(set(inodes(tmp_path, SMALL))) == 1, "which is the same in both"


def test_what_is_damaged_is_not_linked_to_anew(tmp_path):
    with Store(tmp_path, keep_last=None) as store:
        save(store, 1)
    flip(file(tmp_path, 1))
    with Store(tmp_path, keep_last=None) as store:
        save(store, 2)
        assert store.verify(2)
    with Store(tmp_path, keep_last=None) as store:
        flip(tmp_path / "2" / "state" / SMALL / ".zarray")
        save(store, 3)
        assert store.verify(3)


def flip(path):
    with path.open("r+b") as stream:
        byte = stream.read(1)[0]
        stream.seek(0)
        stream.write(bytes([byte ^ 1]))


def test_damage_is_named_in_each_step_that_has_it(tmp_path):
    with Store(tmp_path, keep_last=None) as store:
        save(store, 1, 2)
    with Store(tmp_path, keep_last=None) as store:
        save(store, 3, value=2.0)
    flip(file(tmp_path, 1))
    reader = Reader(tmp_path)
    for step in (1, 2):
        with pytest.raises(CheckpointCorruptError, match=rf"{LARGE}/0.0 is damaged.*leaf.*large"):
            reader.restore(tree(0), step)
    assert reader.latest(verify=True) == 3
    file(tmp_path, 3).unlink()
    with pytest.raises(CheckpointCorruptError, match="no checkpoint.*0.0 is missing.*is damaged"):
        reader.latest(verify=True)


def test_saves_in_flight_link_to_what_stays(tmp_path, gate):
    """Each of them links to the step that was there when it was asked for."""
    gate.set()
    with Store(tmp_path, keep_last=1, max_in_flight=5) as store:
        save(store, 1)
        gate.clear()
        for step in (2, 3):
            store.save(step, tree(step), {}, constant=NODES)
        store.save(4, tree(4), {})  # nothing of it is constant
        store.save(5, tree(5), {}, constant=NODES)
        gate.set()
        store.wait()
        assert store.steps() == (5,)
        assert_same(store.restore(tree(0)).tree, tree(5))


def test_after_a_failure_all_is_written(tmp_path, failing):
    failing.add(2)
    with Store(tmp_path, keep_last=None) as store:
        save(store, 1)
        with pytest.raises(CheckpointWriteError, match="No space left"):
            save(store, 2)
        save(store, 3)
        assert_same(store.restore(tree(0)).tree, tree(3))
        shutil.rmtree(tmp_path / "3")  # by hand, and what it held is not known any more
        save(store, 4)
        assert_same(store.restore(tree(0)).tree, tree(4))
        store.give_up([1, 4])
        save(store, 4)  # in the place of what it would link to
        assert store.steps() == (4,)
        assert_same(store.restore(tree(0)).tree, tree(4))


def test_what_goes_while_it_is_linked_to_fails_the_save(tmp_path, gate):
    gate.set()
    with Store(tmp_path) as store:
        save(store, 1)
        gate.clear()
        store.save(2, tree(2), {}, constant=NODES)
        shutil.rmtree(tmp_path / "1")
        gate.set()
        with pytest.raises(CheckpointWriteError, match="step 2 was not written.*No such file"):
            store.wait()
        save(store, 3)
        assert_same(store.restore(tree(0)).tree, tree(3))


def test_a_file_system_without_hard_links_is_told_of(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(_linked.os, "link", refuse)
    store = Store(tmp_path, keep_last=None)
    save(store, 1, 2)
    assert_same(store.restore(tree(0)).tree, tree(2))
    with pytest.warns(CheckpointWriteWarning, match="no hard links.*was copied"):
        store.close()
    assert len(set(inodes(tmp_path))) == 2


def test_a_node_that_is_not_there_is_refused(tmp_path):
    with Store(tmp_path) as store:
        with pytest.raises(ValueError, match=r"constant must name nodes.*'bass'.*'base'"):
            store.save(1, tree(1), {}, constant=["bass"])
        assert store.steps() == ()


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def program(directory, where):
    """Commits step 1, and is killed there in the save of step 2, which links to it."""
    store = Store(directory)
    save(store, 1)
    link = os.link
    if where == "in the links":
        os.link = lambda *args: (link(*args), die())
    elif where == "before the commit":
        _orbax.sync_tree = die
    elif where == "after the commit":
        _orbax.sync = die
    elif where == "in the deletion":
        shutil.rmtree = lambda path, **_: die() if path.exists() else None
    save(store, 2)


@pytest.mark.parametrize(
    ("where", "latest"),
    [
        ("in the links", 1),
        ("before the commit", 1),
        ("after the commit", 2),
        ("in the deletion", 2),
    ],
)
def test_killed(tmp_path, where, latest):
    process = processes.Process(target=program, args=(tmp_path, where))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with Store(tmp_path) as store:
        assert (store.steps(), file(tmp_path, latest).stat().st_nlink) == ((latest,), 1)
        assert_same(store.restore(tree(0)).tree, tree(latest))
        save(store, 3)
        assert_same(store.restore(tree(0)).tree, tree(3))


processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.store.test_constant"])


# In a bucket, which has no links: the markers name the folder of what they share.


def objects(url):
    return Objects(BucketPath(url))


def bases(url):
    """The folders that hold a base, each once."""
    return sorted(name.split("/")[0] for name in objects(url).sizes() if f"{LARGE}/0.0" in name)


def named(url, step):
    return json.loads(objects(url).read(f"{step}.committed"))["constant"]


def test_in_a_bucket_it_is_uploaded_once(url):
    with Store(url, keep_last=2) as store:
        save(store, 1, 2, 3)
        assert_same(store.restore(tree(0), 2).tree, tree(2))
        assert store.size(3) > store.verify(3) > 2**21
        assert (store.freed([2]) < 2**21, store.freed([2, 3]) > 2**21) == (True, True)
    assert bases(url) == [named(url, 2)] == [named(url, 3)]
    with Store(url, keep_last=2) as store:  # a resume has read it
        assert_same(store.restore(tree(0)).tree, tree(3))
        save(store, 4)
        assert bases(url) == [named(url, 4)] == [named(url, 3)]
        save(store, 5)
        store.save(6, tree(6), {})
        store.wait()
        assert len(bases(url)) == 2
        store.save(7, tree(7), {})
        store.wait()
    assert all(name[0].isdigit() for name in bases(url)), "it goes with its last step"
    assert_same(Reader(url).restore(tree(0)).tree, tree(7))


@pytest.mark.parametrize("after", [0, 3, 6])
def test_an_upload_that_fails_loses_nothing(url, monkeypatch, after):
    calls, put = [], type(MEMORY).put_file

    def fail(fs, *args, **kwargs):
        calls.append(args)
        if len(calls) > after:
            raise OSError(5, "500 Internal Server Error")
        return put(fs, *args, **kwargs)

    with Store(url, keep_last=None) as store:
        save(store, 1)
        with monkeypatch.context() as patched:
            patched.setattr(type(MEMORY), "put_file", fail)
            with pytest.raises(CheckpointWriteError, match="step 2 was not written"):
                save(store, 2)
        assert_same(Reader(url).restore(tree(0)).tree, tree(1))
        save(store, 2, 3)
    assert {named(url, step) for step in (1, 2, 3)} == set(bases(url)), "and what failed is swept"
    for step in (1, 2, 3):
        assert_same(Reader(url).restore(tree(0), step).tree, tree(step))


def test_what_is_gone_from_a_bucket_is_named(url):
    with Store(url, keep_last=None) as store:
        save(store, 1, 2)
    with Store(url, keep_last=None) as store:
        save(store, 3, value=2.0)
    objects(url).delete([f"{named(url, 3)}/state/{LARGE}/0.0"])
    with pytest.warns(CheckpointSkippedWarning, match=rf"3.*state/{LARGE}/0.0 is missing"):
        assert Reader(url).latest(verify=True) == 2
    objects(url).write("3.committed", b'{"folder": "3", "checksums": "", "constant": "../1"}')
    with pytest.raises(CheckpointCorruptError, match=r"3\.committed makes no sense"):
        Reader(url).verify(3)
