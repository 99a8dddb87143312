"""One task at a time in a thread, whose failure is kept until somebody takes it."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable


class Background:
    """Runs one task at a time beside the caller.

    A failure that nobody took by the time the object goes, or the program ends, is printed.

    Example:
        >>> work = Background("example")
        >>> work.start(lambda: 1 / 0, lambda: None)
        >>> work.wait()
        >>> work.take_failure()
        ZeroDivisionError('division by zero')
        >>> work.take_failure() is None
        True
    """

    def __init__(self, name: str) -> None:
        self._thread: threading.Thread | None = None
        self._done = threading.Event()
        self._failures: list[BaseException] = []
        weakref.finalize(self, _print_failures, name, self._failures)
        self._name = name

    def start(self, task: Callable[[], None], afterwards: Callable[[], None]) -> None:
        """Starts a task, when the one before and its tidying up are over.

        Args:
            task: What `wait` waits for.
            afterwards: Tidying up that nobody waits for, except the next task; called even
                if the task fails, and must not raise.
        """
        self.join()
        self._done.clear()
        # Not a daemon: a program that ends without waiting still finishes its save.
        self._thread = threading.Thread(
            target=_run, args=(task, afterwards, self._done, self._failures), name=self._name
        )
        self._thread.start()

    def wait(self) -> None:
        """Waits for the task, without raising what it raised."""
        if self._thread is not None:
            self._done.wait()

    def join(self) -> None:
        """Waits for the task and for what comes afterwards."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def take_failure(self) -> BaseException | None:
        """Hands over what the last task raised, once."""
        return self._failures.pop() if self._failures else None


def _run(
    task: Callable[[], None],
    afterwards: Callable[[], None],
    done: threading.Event,
    failures: list[BaseException],
) -> None:
    try:
        task()
    except BaseException as error:  # whatever it is, the caller hears of it
        failures.append(error)
    finally:
        done.set()
    afterwards()


def _print_failures(name: str, failures: list[BaseException]) -> None:
    for error in failures:
        print(f"{name}: {error}", file=sys.stderr)
