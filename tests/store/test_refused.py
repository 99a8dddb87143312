"""What a store refuses before anything is written, and that it goes on afterwards."""

import errno
import mmap
import os
import threading
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from odyssey_jax.store import (
    CheckpointError,
    CheckpointInUseError,
    CheckpointWriteError,
    Reader,
    Store,
    _checksums,
    _snapshot,
    local_directory,
)
from odyssey_jax.store._snapshot import Planner
from tests.store.conftest import TREE, assert_same, blank, save


def spread(dtype):
    mesh = Mesh(jax.devices()[:4], ("x",))
    return jax.device_put(np.zeros(8, dtype), NamedSharding(mesh, PartitionSpec("x")))


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (lambda: np.zeros(3, np.longdouble), r"leaf \['w'\] is a ndarray of dtype float128"),
        (lambda: np.clongdouble(1), r"leaf \['w'\] is a clongdouble of dtype complex256"),
        (lambda: -(10**4300), r"leaf \['w'\] is an integer of 14285 bits"),
        (lambda: np.ma.masked_array([1.0], [True]), r"leaf \['w'\] is a MaskedArray"),
        (lambda: jax.ShapeDtypeStruct((2,), "float32"), r"\['w'\] describes an array"),
        (lambda: spread(ml_dtypes.uint4), r"leaf \['w'\] is uint4 and spread over devices"),
        (lambda: spread(ml_dtypes.float8_e4m3), r"is float8_e4m3 and spread over devices"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name_and_costs_nothing(tmp_path, leaf, message):
    with Store(tmp_path, keep_last=1) as store:
        store.save(1, {"w": np.arange(3)}, {})
        store.wait()
        with pytest.raises(ValueError, match=message):
            store.save(2, {"w": leaf()}, {})
        assert store.steps() == (1,)
        store.save(2, {"w": np.arange(3)}, {})
        store.wait()
        assert store.steps() == (2,)


def test_metadata_without_a_word_in_json(tmp_path):
    with Store(tmp_path) as store, pytest.raises(ValueError, match="JSON cannot hold"):
        store.save(1, {"w": np.zeros(2)}, {"x": np.longdouble(1)})


def test_the_longest_integer(tmp_path):
    longest = 10**4300 - 1
    with Store(tmp_path) as store:
        store.save(1, {"n": longest}, {"n": -longest})
        store.wait()
        assert store.restore({"n": 0}).tree == {"n": longest}
        assert store.metadata(1)["n"] == -longest
        with pytest.raises(ValueError, match=r"metadata\['n'\] is an integer of 14285 bits"):
            store.save(2, {"n": 0}, {"n": longest + 1})


def test_metadata_whose_names_would_become_one(tmp_path):
    with Store(tmp_path) as store:
        with pytest.raises(ValueError, match=r"strings as names, and \[1\] are none"):
            store.save(1, {"w": np.zeros(2)}, {1: "a", "1": "b"})
        store.save(1, {"w": np.zeros(2)}, {"map": {1: "a", "1": "b"}})
        store.wait()
        assert store.metadata(1)["map"] == {1: "a", "1": "b"}


BAD_ARGUMENTS = [
    ({"keep_last": 0}, "keep_last must be an integer of at least 1, or None for all, got 0"),
    ({"keep_last": 2.5}, "keep_last must be an integer of at least 1, or None for all, got 2.5"),
    ({"keep_last": "2"}, "keep_last must be an integer of at least 1, or None for all, got '2'"),
    ({"keep_every": 0}, "keep_every must be an integer of at least 1, or None for none, got 0"),
    ({"keep_best": -1}, "keep_best must be an integer of at least 0, got -1"),
    ({"keep_best": 1.5, "monitor": "loss"}, "keep_best must be an integer of at least 0, got 1.5"),
    ({"keep_best": None, "monitor": "loss"}, "keep_best must be an integer of at least 0, got No"),
    ({"keep_best": 2}, "keep_best = 2 needs a monitor, the name of a metric"),
    ({"mode": "minimum"}, "mode must be 'min' or 'max', got 'minimum'"),
    ({"max_in_flight": 0}, "max_in_flight must be an integer of at least 1, got 0"),
    ({"max_in_flight": -1}, "max_in_flight must be an integer of at least 1, got -1"),
    ({"max_in_flight": "2"}, "max_in_flight must be an integer of at least 1, got '2'"),
    ({"on_failed_save": "no"}, "on_failed_save must be 'raise' or 'warn', got 'no'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_a_bad_argument_is_refused_before_anything_is_made(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        Store(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


BAD_SAVES = [
    (-1, {}, "step must be an integer of at least 0, .*, got -1"),
    (1.5, {}, "step must be an integer of at least 0, .*, got 1.5"),
    (True, {}, "step must be an integer of at least 0, .*, got True"),
    (0, {}, r"step 0 is already in '.*'; forget\(\[0\]\) first to replace it"),
    (1, {"f": len}, r"metadata\['f'\] is <built-in function len>.* JSON cannot hold"),
    (1, {"step": 1}, r"metadata \['step'\] is written by the store; leave it out"),
    (1, {"metrics": 3}, r"metadata\['metrics'\] must map names to numbers, got 3"),
    (1, {"metrics": {"loss": "low"}}, "monitored metric 'loss' of step 1 is 'low', not a number"),
    (1, {"metrics": {"loss": np.ones(2)}}, r"'loss' of step 1 is \[1.0, 1.0\], not a number"),
    (1, None, "metadata must map names to values, got None"),
    (1, {"metrics": {"los": 3}}, r"monitored metric 'loss' is not among .* step 1: \['los'\]"),
]


@pytest.mark.parametrize(("step", "metadata", "text"), BAD_SAVES)
def test_a_bad_save_is_refused_at_once(tmp_path, step, metadata, text):
    with Store(tmp_path, monitor="loss") as store:
        save(store, 0)
        error = CheckpointError if "already in" in text else ValueError
        with pytest.raises(error, match=text):
            store.save(step, TREE, metadata)
        store.wait()
        assert store.steps() == (0,)


@pytest.mark.parametrize("step", [-1, 1.0, True, "0", None])
def test_what_is_no_step_is_refused_by_whatever_reads(tmp_path, step):
    with Store(tmp_path) as store:
        save(store, 0, 1)
        reads = (store.metadata, store.verify, store.leaves, store.values, store.size, store.load)
        for read in (*reads, lambda step: store.restore(TREE, step)):
            with pytest.raises(ValueError, match="step must be an integer of at least 0, .*, got"):
                read(step)


def test_what_is_no_subtree_and_no_transfer_is_refused(tmp_path):
    with Store(tmp_path) as store:
        save(store, 0)
        with pytest.raises(ValueError, match="subtree must be a name such as .*, got 3"):
            store.restore(TREE, subtree=3)
        with pytest.raises(ValueError, match=r"transfer must be a Transfer\(.*got \{'ignore'"):
            store.restore(TREE, transfer={"ignore": ["w"]})


def test_a_step_that_is_a_word(tmp_path):
    with (
        Store(tmp_path) as store,
        pytest.raises(ValueError, match="'latest' or 'best', got 'lates'"),
    ):
        store.restore({}, "lates")


ELSEWHERE = ["az://bucket/run", "hdfs://h/run", "s3:/bucket/run", "file://host/x"]


@pytest.mark.parametrize("make", [Store, Reader])
@pytest.mark.parametrize("directory", ELSEWHERE)
def test_what_is_not_on_this_machine_is_refused_before_anything_is_made(
    tmp_path, monkeypatch, make, directory
):
    monkeypatch.chdir(tmp_path)
    for given in (directory, *([Path(directory)] if make is Store else [])):
        with pytest.raises(ValueError, match="must be a local path"):
            make(given)
    assert not list(tmp_path.iterdir())


def test_home_and_a_file_url_are_local_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_directory("~/a") == local_directory(Path("~/a")) == tmp_path / "a"
    assert local_directory(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert local_directory(f"file://localhost{tmp_path}") == tmp_path
    assert local_directory(os.fsencode(tmp_path)) == tmp_path
    with Store("~/a/b") as store:
        save(store, 1)
    assert Reader(tmp_path / "a" / "b").steps() == Reader("~/a/b").steps() == (1,)
    monkeypatch.chdir(tmp_path)
    assert Reader("a/b").directory == tmp_path / "a" / "b"
    with pytest.raises(ValueError, match="home directory of '~nobody-here' is not known"):
        Store("~nobody-here/a")
    with pytest.raises(TypeError, match="directory must be a path, got 3"):
        Store(3)
    with pytest.raises(ValueError, match="has a null character"):
        Reader("a\0b")


def test_a_directory_that_is_relative_stays_where_it_was(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    with Store("store") as store:
        monkeypatch.chdir(tmp_path / "two")
        save(store, 1)
    assert Reader(tmp_path / "one" / "store").steps() == (1,)
    assert not list((tmp_path / "two").iterdir())


@pytest.mark.parametrize(("name", "what"), [(b"a\\b", "a backslash"), (b"a\xff", "not UTF-8")])
def test_a_path_that_would_be_another_is_refused(tmp_path, name, what):
    directory = os.fsencode(tmp_path) + b"/" + name
    with pytest.raises(ValueError, match=f"directory must be a path .* has .*{what}"):
        Store(os.fsdecode(directory))
    with pytest.raises(ValueError, match=f"directory must be a path .* has .*{what}"):
        Store(os.fsdecode(directory + b"/below"))
    assert not list(tmp_path.iterdir())


NAMES = ["a b", "a?b", "a#b", "a%20b", "a%b", "a*b", "[ab]", "a\nb", "a:b", "a|b", "ä", "a;b", "$a"]


@pytest.mark.parametrize("name", NAMES)
def test_other_odd_paths_hold_what_was_saved(tmp_path, name):
    tree = TREE | {"spread": spread(np.float32)}
    with Store(tmp_path / name) as store:
        save(store, 1, 2, tree=tree)
        assert_same(store.restore(tree).tree, tree)
        assert store.verify(2) > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_array_that_was_written_elsewhere_fails_the_save(tmp_path):
    (tmp_path / "a").write_text("a")
    with pytest.raises(FileNotFoundError, match="state/packed.x/0 is not in"):
        _checksums.write(tmp_path, {"state/packed.x/0": _checksums.Checksum(1, 2)})
    assert not (tmp_path / "checksums.json").exists()


def test_a_pin_that_is_a_link_is_not_followed(tmp_path):
    with Store(tmp_path / "store") as store:
        save(store, 1)
        (tmp_path / "store" / "1.pinned").symlink_to(tmp_path / "made")
        with pytest.raises(CheckpointWriteError, match="step 1 .* was not pinned"):
            store.pin(1)
    assert not (tmp_path / "made").exists()


def test_a_lock_that_is_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "writer.lock")
    with Store(tmp_path) as store:
        save(store, 1)
        with pytest.raises(CheckpointInUseError), Store(tmp_path) as other:
            other.acquire()
    assert Reader(tmp_path).steps() == (1,)


def test_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is a link that leads nowhere"):
        Store(tmp_path / "link")


def test_keys_that_are_equal_and_of_other_types_are_other_names():
    planner = Planner()
    paths = [planner.plan({key: np.zeros(2)})[0].places[0].path for key in (1, True, 1.0)]
    assert paths == ["[1]", "[True]", "[1.0]"]


def test_where_the_system_gives_no_thread_the_save_fails_and_nothing_hangs(tmp_path, monkeypatch):
    with Store(tmp_path) as store:
        store.save(1, {"w": np.zeros(2)}, {})
        store.wait()
        store._background.join()
        with monkeypatch.context() as patch:

            def start(thread):
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(CheckpointWriteError, match="step 2 was not written.*new thread"):
                store.save(2, {"w": np.zeros(2)}, {})
            store.wait()
        store.save(2, {"w": np.ones(2)}, {})
        store.wait()
        assert store.steps()[-1] == 2


def test_a_kernel_without_huge_pages_saves_all_the_same(tmp_path, monkeypatch):
    class Memory(mmap.mmap):
        def madvise(self, *_):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(_snapshot.mmap, "mmap", Memory)
    with Store(tmp_path) as store:
        save(store, 1)
        assert_same(store.restore(blank(TREE)).tree, TREE)
