"""What a store refuses before anything is written, and that it goes on afterwards."""

import errno
import mmap
import threading

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from odyssey_jax.store import CheckpointError, CheckpointWriteError, Store, _snapshot
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
