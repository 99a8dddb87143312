"""A save that fails is raised once, costs nothing that was committed, and hides nowhere."""

import contextlib
import errno
import itertools
import resource
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

from odyssey_jax.store import (
    CheckpointError,
    CheckpointWriteError,
    CheckpointWriteWarning,
    Reader,
    Store,
    _files,
)

TREE = {"w": np.arange(100_000.0)}


@contextlib.contextmanager
def files_no_longer_than(size):
    """A stand-in for a full disk that does not need a disk of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_and_fail(store, step):
    with files_no_longer_than(100_000):
        store.save(step, TREE, {"metrics": {"loss": 0.0}})
        store._background.join()


@pytest.mark.parametrize("call", ["save", "wait", "check_for_errors", "close"])
def test_a_failed_save_is_raised_once_at_the_next_call(tmp_path, capfd, call):
    store = Store(tmp_path, monitor="loss")
    store.save(1, TREE, {"metrics": {"loss": 1.0}})
    store.wait()
    save_and_fail(store, 2)
    assert (store.steps(), store.latest(), store.best()) == ((1,), 1, 1)
    np.testing.assert_array_equal(store.restore(TREE).tree["w"], TREE["w"])
    with pytest.raises(CheckpointWriteError) as caught:
        store.save(3, TREE, {}) if call == "save" else getattr(store, call)()
    assert str(caught.value) == (
        f"checkpoint of step 2 was not written to {str(tmp_path)!r}: File too large"
    )
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.__cause__ is not None
    store.wait()
    store._background.join()
    names = {p.name for p in tmp_path.iterdir()} - {"writer.lock"}
    assert names == {"1"}, "what it left is cleaned"
    assert capfd.readouterr() == ("", "")
    if call != "close":
        store.save(4, TREE, {})
        store.close()
        assert store.steps() == (4,)


def test_failures_are_warned_of_on_request_and_counted(tmp_path):
    store = Store(tmp_path, on_failed_save="warn")
    for step, so_far in ((1, "1 failed save so far"), (2, "2 failed saves so far")):
        save_and_fail(store, step)
        message = rf"step {step} was not written to '.*': File too large \({so_far}\)"
        with pytest.warns(CheckpointWriteWarning, match=message) as caught:
            store.check_for_errors()
        assert caught[0].filename == __file__
        store.check_for_errors()
    store.save(3, TREE, {})
    store.wait()
    assert store.steps() == (3,)
    save_and_fail(store, 4)
    with pytest.warns(CheckpointWriteWarning) as caught:
        store.save(5, TREE, {})  # the one before failed, this one is begun
    assert "step 4" in str(caught[0].message)
    store.wait()
    save_and_fail(store, 6)
    with pytest.warns(CheckpointWriteWarning) as caught:
        store.close()
    assert [str(w.message).rpartition("failed saves")[2] for w in caught] == [
        " so far)", f" in all, in {str(tmp_path)!r}"
    ]  # fmt: skip
    assert store.steps() == (5,)
    store.close()


def test_while_a_save_goes_on_nothing_is_waited_for(tmp_path):
    going_on = threading.Event()
    with Store(tmp_path) as store:
        store._background.start(going_on.wait, lambda: None)
        store.check_for_errors()
        going_on.set()


def test_the_first_failure_is_not_hidden_by_the_closing(tmp_path):
    def program():
        with Store(tmp_path) as store:
            save_and_fail(store, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        program()
    assert "checkpoint of step 2 was not written" in caught.value.__notes__[0]


def test_the_directory_is_gone(tmp_path):
    with Store(tmp_path / "a") as store:
        (tmp_path / "a").rmdir()
        (tmp_path / "a").write_text("")
        store.save(1, TREE, {})
        with pytest.raises(CheckpointWriteError, match="step 1 was not .*a': Not a directory"):
            store.wait()
        with pytest.raises(CheckpointError, match=r"'.*a' cannot be listed: Not a directory"):
            store.steps()


def test_a_step_that_cannot_be_deleted(tmp_path, monkeypatch):
    def refuse(directory, steps):
        raise PermissionError(errno.EACCES, "Permission denied")

    with Store(tmp_path) as store:
        store.save(1, TREE, {})
        store.wait()
        monkeypatch.setattr(_files, "remove", refuse)
        store.save(2, TREE, {})
        with pytest.raises(CheckpointWriteError, match=r"after step 2 .* not deleted .*: Perm"):
            store.wait()
        with pytest.raises(CheckpointWriteError, match=r"steps \[1\] .* were not deleted: Perm"):
            store.forget([1])
        assert store.steps() == (1, 2)


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 2.3e9, -2.3e9])
def test_a_program_that_is_suspended_in_a_save_goes_on_with_it(tmp_path, monkeypatch, jump):
    """And one whose clock is set by hours, or by 73 years."""
    from orbax.checkpoint._src.futures import future

    hours = itertools.count()

    def clock():
        return jump * min(next(hours), 1 if abs(jump) > 1e9 else 10**6)

    later = types.SimpleNamespace(**{**vars(time), "time": clock})
    monkeypatch.setattr(future, "time", later)
    with Store(tmp_path) as store:
        store.save(1, TREE, {})
        store.wait()
        assert store.steps() == (1,)
    assert next(hours) > 1


def test_a_directory_that_cannot_be_made(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(CheckpointWriteError, match=r"'.*new' cannot be made: Permission denied$"):
        Store(tmp_path / "new")


def test_errors_have_one_base():
    assert issubclass(CheckpointWriteError, CheckpointError)


LEAVING = """
import sys, resource
import numpy as np
from odyssey_jax.store import Store
tree = {"w": np.arange(100_000.0)}
failing, leaving = map(Store, sys.argv[1:])
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
failing.save(1, tree, {})
failing._background.join()
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
leaving.save(1, tree, {})
"""


def test_a_failure_that_nobody_took_is_printed(tmp_path):
    """And a save that nobody waited for is committed."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, tmp_path / "failing", tmp_path / "leaving"],
        capture_output=True,
        text=True,
        check=True,
    )
    failing, leaving = tmp_path / "failing", tmp_path / "leaving"
    assert f"1 was not written to {str(failing)!r}: File too large" in done.stderr
    assert str(leaving) not in done.stderr
    assert Reader(leaving).latest(verify=True) == 1


ENDINGS = ["", "raise SystemExit(0)", "1 / 0", "del store", "import threading; threading.Thread()"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_that_ends_without_close_has_saved(tmp_path, ending):
    code = (
        "import sys, numpy as np\nfrom odyssey_jax.store import Store\nstore = Store(sys.argv[1], "
        "keep_last=None)\nfor i in (1, 2): store.save(i, {'w': np.ones(10**6)}, {})\n" + ending
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == (1 if "/" in ending else 0), done.stderr
    assert Reader(tmp_path).steps() == (1, 2)
    assert Reader(tmp_path).verify(2) > 8 * 10**6
    assert "/" in ending or not done.stderr


def test_the_files_of_a_deleted_step_that_stay_are_told_of_once(tmp_path, monkeypatch):
    with Store(tmp_path) as store:
        store.save(1, TREE, {})
    remove = _files.shutil.rmtree
    monkeypatch.setattr(
        _files.shutil,
        "rmtree",
        lambda path, **how: None if path.name == "1.deleted" else remove(path, **how),
    )
    store = Store(tmp_path)
    store.save(2, TREE, {})
    with pytest.warns(CheckpointWriteWarning, match=r"does not delete them: 1\.deleted; ") as told:
        store.close()
    assert len(told) == 1
    with pytest.warns(CheckpointWriteWarning, match=r"1\.deleted") as told:
        store = Store(tmp_path)
    assert [warning.filename for warning in told] == [__file__]
    store.save(3, TREE, {})
    store.close()
    assert Reader(tmp_path).steps() == (3,)
    monkeypatch.undo()
    Store(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
