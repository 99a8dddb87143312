"""Checkpoints in a bucket: committed by a marker, read by their checksums, one writer at a time."""

import json
import multiprocessing
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from odyssey_jax.store import (
    BucketPath,
    CheckpointCorruptError,
    CheckpointError,
    CheckpointInUseError,
    CheckpointNotFoundError,
    CheckpointSkippedWarning,
    CheckpointWriteError,
    CheckpointWriteWarning,
    Reader,
    Store,
    _checksums,
    _files,
    _lease,
    as_directory,
)
from odyssey_jax.store._bucket import Bucket, _digest
from odyssey_jax.store._checksums import Checksum
from odyssey_jax.store._lease import Lease
from odyssey_jax.store._objects import Objects
from tests.store.conftest import MEMORY, TREE, save

pytestmark = pytest.mark.usefixtures("plain_writer")


def names(url):
    return set(Objects(BucketPath(url)).sizes())


def tree(value):
    return {"w": np.full(3, float(value))}


class Failing:
    """Makes the requests of a kind fail: so many times, or from then on."""

    def __init__(self, monkeypatch, method, times=10**6, matching="", after=0):
        self.left, self.after, self.matching = times, after, matching
        original = getattr(type(MEMORY), method)
        called = lambda fs, *args, **kwargs: self.fail(*args) or original(fs, *args, **kwargs)
        monkeypatch.setattr(type(MEMORY), method, called)

    def fail(self, *args):
        if any(self.matching in str(arg) for arg in args) and self.left:
            if self.after:
                self.after -= 1
            else:
                self.left -= 1
                raise OSError(5, "500 Internal Server Error")


def test_saved_kept_and_restored_to_the_bit(url, tmp_path):
    with Store(url, keep_last=2, keep_best=1, monitor="loss") as store:
        for step, loss in enumerate([0.5, 0.1, 0.4, float("nan"), 0.3]):
            store.save(step, tree(step), {"metrics": {"loss": loss}})
        store.wait()
        assert (store.steps(), store.latest(), store.best()) == ((1, 3, 4), 4, 1)
        store.pin(3)
        store.save(5, tree(5), {"metrics": {"loss": 0.6}})
        store.save(6, tree(6), {"metrics": {"loss": 0.6}})
        store.wait()
        assert (store.steps(), store.pinned()) == ((1, 3, 5, 6), (3,))
        store.unpin(3)
        store.forget([3])
        restored = store.restore(TREE, "best")
    assert restored.step == 1
    assert restored.tree["w"].tobytes() == tree(1)["w"].tobytes()
    reader = Reader(url, monitor="loss")
    assert (reader.steps(), reader.best(verify=True), reader.pinned()) == ((1, 5, 6), 1, ())
    assert reader.size(6) > reader.verify(6) > 24
    # What was deleted left nothing, in the bucket or here.
    assert {int(name.split("/")[0].split(".")[0]) for name in names(url) if name[0] != "w"} == {
        1,
        5,
        6,
    }
    del reader, store
    assert not list(tmp_path.iterdir())


def test_a_copied_bucket_is_a_local_store(url, tmp_path):
    with Store(url) as store:
        save(store, 7)
    Objects(BucketPath(url)).download({name: tmp_path / "copy" / name for name in names(url)})
    assert Reader(tmp_path / "copy").restore(TREE).step == 7


def test_a_step_without_its_marker_does_not_exist_and_is_swept(url, monkeypatch):
    with Store(url) as store:
        save(store, 1)
    failing = Failing(monkeypatch, "pipe_file", matching="2.committed")
    failure = pytest.raises(CheckpointWriteError, match="step 2 was not written.*500 Internal")
    with failure, Store(url) as store:
        save(store, 2)
    assert not any(name.startswith("2/") for name in names(url)), "swept by the one that failed"
    failing.left = 0
    Objects(BucketPath(url)).write("3/metadata/metadata", b"{}")  # by one that was killed
    assert Reader(url).steps() == (1,)
    with pytest.raises(CheckpointNotFoundError, match=r"no step 3 .*committed are \[1\]"):
        Reader(url).metadata(3)
    with Store(url) as store:
        store.acquire()
        assert not any(name.startswith("3") for name in names(url))
        save(store, 3)
    assert Reader(url).steps() == (3,)


@pytest.mark.parametrize("after", range(9))
def test_a_save_that_fails_anywhere_loses_nothing(url, monkeypatch, after):
    with Store(url) as store:
        save(store, 1)
        failing = Failing(monkeypatch, "put_file", after=after)
        marker = Failing(monkeypatch, "pipe_file", matching=".committed")
        with pytest.raises(CheckpointWriteError, match="step 2 was not written"):
            save(store, 2)
        assert Reader(url).restore(TREE).step == 1
        failing.left = marker.left = 0
        save(store, 2, tree=tree(2))
        assert Reader(url).restore(TREE).tree["w"][0] == 2.0


def test_an_error_of_the_moment_is_asked_again(url, monkeypatch):
    for method in ("put_file", "pipe_file", "rm_file", "ls", "find", "get_file", "cat_file"):
        Failing(monkeypatch, method, times=2)
    with Store(url) as store:
        save(store, 1, 2)
    assert Reader(url).restore(TREE).step == 2


def test_a_run_goes_on_with_warnings_where_it_was_asked_to(url, monkeypatch):
    with Store(url, on_failed_save="warn") as store:
        failing = Failing(monkeypatch, "put_file")
        with pytest.warns(CheckpointWriteWarning, match="step 1 was not written.*1 failed save so"):
            save(store, 1)
        failing.left = 0
        save(store, 2)
        assert store.steps() == (2,)
        with pytest.warns(CheckpointWriteWarning, match="1 failed save in all"):
            store.close()


def test_a_bucket_that_refuses_is_not_corrupt(url, monkeypatch):
    with Store(url, keep_last=2) as store:
        save(store, 1, 2)
    Failing(monkeypatch, "get_file")
    with pytest.raises(CheckpointError, match="could not be read.*500") as told:
        Reader(url).restore(TREE)  # and it takes no older one in its place
    assert not isinstance(told.value, CheckpointCorruptError)


FILES = ["checksums.json", "metadata/metadata", "layout/metadata", "state/packed.float64/0"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["flipped", "short", "gone"])
def test_a_corrupt_object_is_named_and_skipped(url, name, how):
    with Store(url, keep_last=2) as store:
        save(store, 1, 2)
    objects = Objects(BucketPath(url))
    content = bytearray(objects.read(f"2/{name}"))
    if how == "gone":
        objects.delete([f"2/{name}"])
    else:
        content[-1 if how == "short" else 3] ^= 1
        objects.write(f"2/{name}", bytes(content[: len(content) - (how == "short")]))
    with pytest.raises(CheckpointCorruptError, match=name):
        Reader(url).verify(2)
    reader = Reader(url)
    with pytest.warns(CheckpointSkippedWarning, match="step 1 is taken"):
        assert reader.restore(TREE).step == 1
    objects.write(f"2/{name}", content and bytes(objects.read(f"1/{name}")))


@pytest.mark.parametrize("marker", [b"", b"{}", b"[1]", b'{"folder": "../1", "checksums": ""}'])
def test_a_marker_that_makes_no_sense_hides_no_other(url, marker):
    with Store(url, keep_last=2) as store:
        save(store, 1, 2)
    Objects(BucketPath(url)).write("2.committed", marker)
    with pytest.warns(CheckpointSkippedWarning, match=r"2\.committed"):
        assert Reader(url).restore(TREE).step == 1
    with Store(url, keep_last=None) as store:
        save(store, 3)  # whose folders are swept only where all markers are known
        assert any(name.startswith("2/") for name in names(url))


def test_names_that_lead_out_are_refused(url, tmp_path):
    with Store(url) as store:
        save(store, 1)
    objects = Objects(BucketPath(url))
    sums = json.dumps({"crc32": {"../../../escaped": [1, 0]}}).encode()
    objects.write("1/checksums.json", sums)
    objects.write("1.committed", json.dumps({"folder": "1", "checksums": _digest(sums)}).encode())
    with pytest.raises(CheckpointCorruptError, match="no name of a file"):
        Reader(url).metadata(1)


def test_a_step_that_was_given_up_stays_until_another_has_its_place(url, monkeypatch):
    with Store(url) as store:
        save(store, 5)
    with Store(url) as store:
        store.give_up([5])
        failing = Failing(monkeypatch, "pipe_file", matching="5.committed")
        with pytest.raises(CheckpointWriteError):
            save(store, 5, tree=tree(9))
        assert Reader(url).restore(TREE).tree["w"].tolist() == TREE["w"].tolist()
        failing.left = 0
        save(store, 5, tree=tree(9))
    assert Reader(url).restore(TREE).tree["w"].tolist() == [9.0] * 3
    assert not any(name.startswith("5/") for name in names(url)), "the old files are swept"


def test_a_second_writer_is_refused_and_a_closed_one_is_followed(url):
    with Store(url) as store:
        save(store, 1)
        with pytest.raises(CheckpointInUseError, match=r"another Store of this program.*close\(\)"):
            save(Store(url), 2)
        Reader(url).verify(1)
    with Store(url) as store:
        save(store, 2)


def test_of_writers_that_race_one_wins(url):
    leases = [Lease(Objects(BucketPath(url))) for _ in range(8)]
    refused = []

    def take(lease):
        try:
            lease.acquire(wait=False)
        except CheckpointInUseError as error:
            refused.append(error)

    threads = [threading.Thread(target=take, args=[lease]) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lease.held for lease in leases].count(True) == 1
    assert len(refused) == 7
    for lease in leases:
        lease.release()


def of_another_machine(url, **said):
    """Leave the lease of a program elsewhere."""
    said = {"token": "x", "process": 7, "host": "elsewhere", "machine": "other", **said}
    Objects(BucketPath(url)).write("writer.lease.000000000003", json.dumps(said).encode())


def test_an_expired_lease_is_taken_over(url, monkeypatch):
    monkeypatch.setattr(_lease, "SECONDS", 0.3)
    of_another_machine(url)
    with Store(url) as store:
        save(store, 1)
        assert "writer.lease.000000000004" in names(url)
        assert "writer.lease.000000000003" not in names(url)


def test_one_that_is_renewed_is_refused_by_name(url, monkeypatch):
    monkeypatch.setattr(_lease, "_PAUSE", 0.01)
    of_another_machine(url)
    timer = threading.Timer(0.1, of_another_machine, [url], {"renewed": 1})
    timer.start()
    with pytest.raises(CheckpointInUseError, match="process 7 on elsewhere"):
        Store(url).acquire()
    timer.join()


def test_a_writer_that_lost_its_lease_commits_nothing(url):
    with Store(url, on_failed_save="warn") as store:
        save(store, 1)
        of_another_machine(url)  # a higher number: it was away for too long
        with pytest.warns(CheckpointWriteWarning, match="written to by process 7 on elsewhere"):
            save(store, 2)
        with pytest.warns(CheckpointWriteWarning):
            store.close()
    assert Reader(url).steps() == (1,)


def test_the_lease_is_renewed_while_the_store_lives(url, monkeypatch):
    monkeypatch.setattr(_lease, "SECONDS", 0.2)
    with Store(url) as store:
        store.acquire()
        (lease,) = names(url)
        objects = Objects(BucketPath(url))
        before = objects.read(lease)
        changed = threading.Event()
        while not changed.wait(0.02):
            if objects.read(lease) != before:
                changed.set()
        with pytest.raises(CheckpointInUseError):
            Store(url).acquire()


def test_a_store_without_conditional_puts_is_said(url, monkeypatch):
    monkeypatch.setattr(Objects, "create", lambda self, n, content: self.write(n, content) or True)
    warned = pytest.warns(CheckpointWriteWarning, match="has no conditional put")
    with Store(url) as store, warned:
        store.acquire()


def test_the_place_of_a_killed_process_is_free_at_once(url):
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    said = {"process": process.pid, "machine": _lease._machine(), "started": "1"}
    process.join()
    of_another_machine(url, **said)
    Lease(Objects(BucketPath(url))).acquire(wait=False)


def test_staging_that_a_killed_program_left_is_deleted(url, tmp_path, monkeypatch):
    reader = Reader(url)
    left = Path(tempfile.mkdtemp(prefix=reader._folder.path.name.rpartition("-")[0] + "-"))
    (left / "120").mkdir()
    os.utime(left, (0, 0))
    other = Reader(url)
    assert other._folder.path.is_dir()
    assert not left.exists()
    assert reader._folder.path.is_dir(), "it is in use"


@pytest.mark.parametrize("given", ["s3://", "s3://b/../c", "gs://b/r?x", "memory://b/a//c"])
def test_urls_that_name_no_prefix_are_refused(given):
    with pytest.raises(ValueError, match="accepted are gs://bucket/run and s3://bucket/run"):
        as_directory(given)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(ImportError, match=r"s3fs is not installed.*odyssey-jax\[buckets\]"):
        Store("s3://bucket/run")


class Barriers:
    """Those of a process whose others do `meanwhile`."""

    def __init__(self, meanwhile, place=None):
        self.uploaded, self.place = meanwhile, place

    def placed(self, place):
        return place or self.place


def staged(url, monkeypatch, process):
    """The bucket of one of 2 processes, of which each has written a file of step 1."""
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("jax.process_index", lambda: process)
    bucket = Bucket(BucketPath(url))
    local = bucket.path / ("1" if process == 0 else f"1.{_files.UNFINISHED}")
    file = local / "state" / "tree.w" / f"{process}.0"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"123456789")
    if process == 0:
        others = {"state/tree.w/1.0": Checksum(9, 0xCBF43926)}
        _checksums.write(local, others, whole=False)
    return bucket


@pytest.mark.parametrize("theirs", [None, b"1234", b"123456789"])
def test_the_marker_waits_for_what_others_upload(url, monkeypatch, theirs):
    bucket, objects = staged(url, monkeypatch, 0), Objects(BucketPath(url))
    bucket.lock().acquire()
    barriers = Barriers(lambda: theirs and objects.write("1/state/tree.w/1.0", theirs))
    if theirs == b"123456789":
        bucket.publish(1, barriers)
        bucket.lock().release()
        assert bucket.committed() == (1,)
        return
    why = "is 4 bytes long, not 9" if theirs else "is missing"
    with pytest.raises(CheckpointCorruptError, match=rf"state/tree\.w/1\.0 {why}"):
        bucket.publish(1, barriers)
    bucket.sweep(unfinished=True)
    bucket.lock().release()
    assert {name.partition(".")[0] for name in names(url)} == {"writer"}


def test_another_process_uploads_its_files_and_no_more(url, monkeypatch):
    bucket, told = staged(url, monkeypatch, 1), []
    bucket.publish(1, Barriers(lambda: told.extend(names(url)), ["1", "", ""]))
    assert told == ["1/state/tree.w/1.0"]
    assert names(url) == set(told)
    assert [path.name for path in bucket.path.iterdir()] == ["writer.lock"]
