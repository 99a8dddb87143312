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


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            {"keep_last": 2.5},
            "keep_last must be an integer of at least 1, or None for all, got 2.5",
        ),
        (
            {"keep_last": "2"},
            "keep_last must be an integer of at least 1, or None for all, got '2'",
        ),
        ({"keep_every": 0}, "keep_every must be an integer of at least 1, or None for none, got 0"),
        ({"keep_best": 1.5, "monitor": "loss"}, "keep_best must be an integer of at least 0"),
        ({"keep_best": None, "monitor": "loss"}, "keep_best must be an integer of at least 0"),
        ({"max_in_flight": "2"}, "max_in_flight must be an integer of at least 1, got '2'"),
    ],
)
def test_a_policy_of_other_types_is_refused_at_once(tmp_path, policy, message):
    with pytest.raises(ValueError, match=message):
        Store(tmp_path, **policy)


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


def test_a_kernel_without_large_pages_saves_all_the_same(tmp_path, monkeypatch):
    class Memory(mmap.mmap):
        def madvise(self, *_):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(_snapshot.mmap, "mmap", Memory)
    with Store(tmp_path) as store:
        save(store, 1)
        assert_same(store.restore(blank(TREE)).tree, TREE)
