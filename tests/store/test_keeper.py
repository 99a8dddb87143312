"""What is kept: pins, every n-th step, and steps that are given up until a save is committed."""

import numpy as np
import pytest

from odyssey_jax.store import (
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    Reader,
    Store,
    _files,
)
from tests.store.conftest import TREE, save

pytestmark = pytest.mark.usefixtures("plain_writer")


def test_a_pin_outlives_the_store_and_an_unpinned_step_goes(tmp_path):
    with Store(tmp_path) as store:
        save(store, 0, 1)
        store.pin(1)
        store.pin(1)
        save(store, 2, 3)
        assert (store.steps(), store.pinned()) == ((1, 3), (1,))
    assert Reader(tmp_path).pinned() == (1,)
    with Store(tmp_path) as store:
        save(store, 4)
        assert store.steps() == (1, 4)
        store.unpin(1)
        store.unpin(1)
        assert store.steps() == (1, 4)
        save(store, 5)
        assert store.steps() == (5,)
    assert Reader(tmp_path).pinned() == ()


def test_another_program_pins_while_this_one_writes(tmp_path):
    with Store(tmp_path) as writer:
        save(writer, 1)
        with Store(tmp_path, keep_last=None) as other:
            other.pin(1)
        save(writer, 2)
        assert writer.steps() == (1, 2)


def test_a_step_that_is_being_saved_can_be_pinned(tmp_path):
    with Store(tmp_path) as store:
        store.save(1, TREE, {})
        store.pin(1)
        save(store, 2)
        assert store.steps() == (1, 2)


def test_a_pinned_step_is_not_forgotten(tmp_path):
    with Store(tmp_path, keep_last=None) as store:
        save(store, 1, 2)
        store.pin(2)
        with pytest.raises(
            CheckpointError, match=r"steps \[2\] in .* are pinned; unpin them first"
        ):
            store.forget([1, 2])
        assert store.steps() == (1, 2)
        store.unpin(2)
        store.forget([1, 2])
        assert store.steps() == ()


def test_what_is_not_committed_cannot_be_pinned(tmp_path):
    with Store(tmp_path) as store:
        save(store, 1)
        for change in (store.pin, store.unpin):
            with pytest.raises(CheckpointNotFoundError, match=r"no step 7 .*committed are \[1"):
                change(7)
            with pytest.raises(
                ValueError, match="step must be an integer of at least 0, .*, got -1"
            ):
                change(-1)
        assert {path.name for path in tmp_path.iterdir()} == {"1", "writer.lock"}


def test_a_mark_that_cannot_be_written_is_an_error(tmp_path):
    with Store(tmp_path) as store:
        save(store, 1)
        (tmp_path / "1.pinned").mkdir()
        with pytest.raises(CheckpointWriteError, match=r"step 1 in .* was not unpinned: Is a dir"):
            store.unpin(1)


def test_every_nth_step_is_kept_for_good(tmp_path):
    with Store(tmp_path, keep_every=10) as store:
        save(store, 5, 10, 15, 20, 25)
        assert store.steps() == (10, 20, 25)
        assert store.metadata(25)["retention"]["keep_every"] == 10


def test_how_long_a_save_took(tmp_path):
    with Store(tmp_path) as store:
        assert store.save_seconds == 0
        store.save(1, TREE, {})
        store.wait()
        assert 0 < store.save_seconds < 60


def tree(value):
    return {"w": np.full(3, value)}


@pytest.fixture
def directory(tmp_path):
    """Steps 2, 4 and 6, in which w is the step."""
    with Store(tmp_path, keep_last=None) as store:
        for step in (2, 4, 6):
            store.save(step, tree(step), {})
    return tmp_path


def values(directory):
    reader = Reader(directory)
    return {step: reader.values(step)["['w']"][0] for step in reader.steps()}


def test_they_go_when_a_save_is_committed(directory):
    with Store(directory, keep_last=None) as store:
        store.give_up([4, 6])
        assert store.steps() == (2, 4, 6)
        store.save(3, tree(30), {})
        store.save(6, tree(60), {})  # given up, or gone by now
        store.save(5, tree(50), {})
        store.wait()
        assert store.steps() == (2, 3, 5, 6)
        with pytest.raises(CheckpointError, match="step 6 is already in"):
            store.save(6, tree(61), {})
    assert values(directory) == {2: 2, 3: 30, 5: 50, 6: 60}
    with Store(directory, keep_last=None) as store:
        assert store.steps() == (2, 3, 5, 6)


@pytest.mark.parametrize("step", [3, 4])
def test_a_save_that_fails_costs_none_of_them(directory, failing, step):
    failing.add(step)
    with Store(directory, keep_last=1, on_failed_save="warn") as store:
        store.give_up([4, 6])
        store.save(step, tree(0), {})
        with pytest.warns(UserWarning, match=f"step {step} was not written"):
            store.wait()
        assert values(directory) == {2: 2, 4: 4, 6: 6}
        failing.clear()
        store.save(step, tree(1), {})
        store.wait()
        assert values(directory) == {step: 1}
        store._failures.count = 0  # told of above
    assert [path.name for path in directory.iterdir()] == [str(step)]


def test_killed_while_one_is_replaced(directory, failing, monkeypatch):
    failing.add(4)
    store = Store(directory, keep_last=None)
    store.give_up([4, 6])
    with monkeypatch.context() as patched:
        patched.setattr(_files, "_put_back", lambda aside: None)
        patched.setattr(_files, "sweep", lambda directory, unfinished: [])
        store.save(4, tree(0), {})
        with pytest.raises(CheckpointWriteError):
            store.close()
    assert values(directory) == {2: 2, 6: 6}
    assert (directory / "4.replaced").is_dir()
    Store(directory).close()
    assert values(directory) == {2: 2, 4: 4, 6: 6}


@pytest.mark.parametrize("step", [1, 4, 5])
def test_killed_between_the_commit_and_the_deletion(directory, monkeypatch, step):
    def killed(*args):
        raise RuntimeError("killed")

    store = Store(directory, keep_last=None)
    store.give_up([4, 6])
    with monkeypatch.context() as patched:
        patched.setattr(_files, "remove", killed)
        patched.setattr(_files, "sweep", lambda directory, unfinished: [])
        store.save(step, tree(10), {})
        with pytest.raises(CheckpointWriteError, match="were not deleted"):
            store.close()
    assert values(directory) == {2: 2, 4: 4, 6: 6} | {step: 10}
    with Store(directory, keep_last=None) as again:
        assert values(directory) == {2: 2, step: 10}
        again.save(6, tree(60), {})
    Store(directory).close()
    assert values(directory) == {2: 2, step: 10, 6: 60}
    assert not [path for path in directory.iterdir() if path.suffix]


def test_a_clock_that_stands_makes_no_step_of_another(directory):
    with Store(directory, keep_last=None, clock=lambda: 0.0) as store:
        store.give_up([2, 4, 6])
        for step in (2, 4, 6):
            store.save(step, tree(10 * step), {})
    with Store(directory, keep_last=None, clock=lambda: 0.0) as store:
        assert store.steps() == (2, 4, 6)
        store.give_up([4, 6])
        for step in (4, 6):
            store.save(step, tree(100 * step), {})
    Store(directory, keep_last=None).close()
    assert values(directory) == {2: 20, 4: 400, 6: 600}


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """Steps 1 and 2 by a store that keeps one, killed between the commit and the deletion."""

    def kill(*args):
        raise RuntimeError("killed")

    store = Store(tmp_path)
    save(store, 1)
    with monkeypatch.context() as patched:
        patched.setattr(_files, "remove", kill)
        store.save(2, TREE, {})
        with pytest.raises(CheckpointWriteError, match="were not deleted"):
            store.close()
    assert Reader(tmp_path).steps() == (1, 2)
    return tmp_path


def test_killed_between_the_commit_and_the_deletion_of_the_old(killed):
    with Store(killed) as store:
        assert store.steps() == (2,)


def test_another_rule_deletes_nothing_before_it_saves(killed):
    with Store(killed, keep_last=None) as store:
        assert store.steps() == (1, 2)
    with Store(killed, keep_last=1, keep_every=5) as store:
        assert store.steps() == (1, 2)


@pytest.mark.parametrize("file", ["metadata/metadata", "state/packed.float64/0"])
def test_the_old_is_not_deleted_for_a_new_one_that_is_damaged(killed, file):
    path = killed / "2" / file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with Store(killed) as store:
        assert store.steps() == (1, 2)
        with pytest.warns(UserWarning, match="step 1 is taken"):
            assert store.latest(verify=True) == 1


def test_what_is_pinned_is_kept_when_the_old_goes(killed):
    (killed / "1.pinned").touch()
    with Store(killed) as store:
        assert store.steps() == (1, 2)


def test_what_is_pinned_or_not_there_is_refused(directory):
    with Store(directory, keep_last=None) as store:
        store.pin(4)
        with pytest.raises(CheckpointError, match=r"steps \[4\] .* are pinned; unpin them first"):
            store.give_up([4, 6])
        with pytest.raises(CheckpointNotFoundError, match=r"no steps \[5\]"):
            store.give_up([5, 6])
        store.save(8, tree(8), {})
    assert values(directory) == {2: 2, 4: 4, 6: 6, 8: 8}
