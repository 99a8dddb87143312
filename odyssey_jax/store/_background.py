"""The background thread of a store, and what becomes of the saves that fail in it."""

from __future__ import annotations

import concurrent.futures.thread
import os
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, get_args

from odyssey_jax._checks import check_words
from odyssey_jax.store._errors import CheckpointWriteError, CheckpointWriteWarning

OnFailedSave = Literal["raise", "warn"]


_all: weakref.WeakSet[Background] = weakref.WeakSet()


def _finish_all() -> None:
    """Finish what runs when the program ends: a save that nobody waited for is committed."""
    for background in list(_all):
        background.join()


# Before `concurrent.futures` is shut down, without which Orbax and TensorStore write nothing: it
# is at exit too, before `atexit`, and the last to register is the first to be called.
# https://github.com/python/cpython/blob/3.11/Lib/concurrent/futures/thread.py
assert concurrent.futures.thread
threading._register_atexit(_finish_all)  # pyright: ignore[reportAttributeAccessIssue]


class Background:
    """A thread that runs tasks in the order given; a bounded number may be unfinished.

    A failure that nobody took by the time the object goes, or the program ends, is printed.

    Args:
        name: What to call it where a failure is printed.
        most: How many tasks may be unfinished, the one that runs included; at least 1.

    Example:
        >>> work = Background("example", most=2)
        >>> work.start(lambda: 1 / 0, lambda: None)
        >>> work.start(lambda: print("and on"), lambda: None)
        >>> work.wait()
        and on
        >>> work.take_failures()
        [ZeroDivisionError('division by zero')]
        >>> work.take_failures()
        []
    """

    def __init__(self, name: str, most: int = 1) -> None:
        self._name = name
        self._most = most
        self._tasks: deque[tuple[Callable[[], None], Callable[[], None]]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._failures: list[BaseException] = []
        _all.add(self)
        weakref.finalize(self, _print_failures, name, self._failures)

    @property
    def unfinished(self) -> int:
        """Number of tasks that are not over, the one that runs included."""
        return len(self._tasks)

    @property
    def full(self) -> bool:
        """True if `start` would wait."""
        return self.unfinished >= self._most

    def wait_for_room(self) -> None:
        """Wait until one more task may be started."""
        with self._changed:
            self._changed.wait_for(lambda: not self.full)

    def start(self, task: Callable[[], None], afterwards: Callable[[], None]) -> None:
        """Start a task as soon as those before it and their tidying up are over.

        Args:
            task: What `wait` waits for.
            afterwards: Tidying up that nobody waits for, except the next task; called even
                if the task fails, and must not raise.

        Raises:
            RuntimeError: If the system gives no thread; the task is not begun.
        """
        self.wait_for_room()
        with self._changed:
            self._tasks.append((task, afterwards))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name)
                try:
                    self._thread.start()
                except BaseException:
                    self._tasks.pop()  # nobody would ever run it
                    self._thread = None
                    raise

    def wait(self) -> None:
        """Wait for all tasks, without raising what they raised."""
        with self._changed:
            self._changed.wait_for(lambda: not self._tasks)

    def join(self) -> None:
        """Wait for all tasks and for what comes afterwards."""
        thread = self._thread
        if thread is not None:
            thread.join()

    @property
    def failed(self) -> bool:
        """True if there are failures to take."""
        return bool(self._failures)

    def take_failures(self) -> list[BaseException]:
        """Return what tasks raised since it was last called, in their order."""
        taken = self._failures.copy()
        del self._failures[: len(taken)]
        return taken

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._tasks:
                    self._thread = None
                    return
                task, afterwards = self._tasks[0]
            try:
                task()
            except BaseException as error:  # whatever it is, the caller hears of it
                self._failures.append(error)
            del task  # and with it what it holds
            with self._changed:
                self._tasks.popleft()
                self._changed.notify_all()
            afterwards()


def _print_failures(name: str, failures: list[BaseException]) -> None:
    for error in failures:
        print(f"{name}: {error}", file=sys.stderr)


class Failures:
    """A store's failed saves: counted, and raised or warned of.

    Args:
        policy: ``"raise"`` or ``"warn"``.

    Raises:
        ValueError: If the policy is neither.

    Example:
        >>> failures = Failures("raise")
        >>> failures.tell([CheckpointWriteError("no space")])
        Traceback (most recent call last):
        odyssey_jax.store._errors.CheckpointWriteError: no space
        >>> failures.count
        1
    """

    def __init__(self, policy: OnFailedSave) -> None:
        check_words("on_failed_save", policy, get_args(OnFailedSave))
        self.policy: OnFailedSave = policy
        self.count = 0

    def tell(self, failures: Iterable[BaseException]) -> None:
        """Raise the first failure with notes of the others, or warn of each.

        What is no failure to write is always raised.
        """
        raised: list[BaseException] = []
        for failure in failures:
            self.count += 1
            if self.policy == "raise" or not isinstance(failure, CheckpointWriteError):
                raised.append(failure)
            else:
                _warn(f"{failure} ({_failed(self.count)} so far)")
        for failure in raised[1:]:
            raised[0].add_note(f"and then: {failure}")
        if raised:
            raise raised[0]

    def sum_up(self, directory: os.PathLike[str]) -> None:
        """Warn once more at the end: a warning in the middle of a long log is not seen."""
        if self.count and self.policy == "warn":
            _warn(f"{_failed(self.count)} in all, in {str(directory)!r}")


def _failed(count: int) -> str:
    return f"{count} failed save{'' if count == 1 else 's'}"


def _warn(message: str) -> None:
    # The line to show is the one that called the store.
    warnings.warn(CheckpointWriteWarning(message), stacklevel=4)
