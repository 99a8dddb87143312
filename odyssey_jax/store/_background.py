"""Tasks in a thread, one after another, whose failures are kept until somebody takes them."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable


class Background:
    """Runs tasks beside the caller, in the order given; a bounded number may be unfinished.

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
        weakref.finalize(self, _print_failures, name, self._failures)

    @property
    def unfinished(self) -> int:
        """How many tasks are not over, the one that runs included."""
        return len(self._tasks)

    @property
    def full(self) -> bool:
        """Whether `start` would wait."""
        return self.unfinished >= self._most

    def wait_for_room(self) -> None:
        """Waits until one more task may be started."""
        with self._changed:
            self._changed.wait_for(lambda: not self.full)

    def start(self, task: Callable[[], None], afterwards: Callable[[], None]) -> None:
        """Starts a task as soon as those before it and their tidying up are over.

        Args:
            task: What `wait` waits for.
            afterwards: Tidying up that nobody waits for, except the next task; called even
                if the task fails, and must not raise.

        Raises:
            RuntimeError: The system gives no thread; the task is not begun.
        """
        self.wait_for_room()
        with self._changed:
            self._tasks.append((task, afterwards))
            if self._thread is None:
                # Not a daemon: a program that ends without waiting still finishes its save.
                self._thread = threading.Thread(target=self._run, name=self._name)
                try:
                    self._thread.start()
                except BaseException:
                    self._tasks.pop()  # nobody would ever run it
                    self._thread = None
                    raise

    def wait(self) -> None:
        """Waits for all tasks, without raising what they raised."""
        with self._changed:
            self._changed.wait_for(lambda: not self._tasks)

    def join(self) -> None:
        """Waits for all tasks and for what comes afterwards."""
        thread = self._thread
        if thread is not None:
            thread.join()

    @property
    def failed(self) -> bool:
        """Whether there are failures to take."""
        return bool(self._failures)

    def take_failures(self) -> list[BaseException]:
        """Hands over what tasks raised since it was last called, in their order."""
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
