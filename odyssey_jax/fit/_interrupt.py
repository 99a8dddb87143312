"""What ends a run early: a signal, or the time budget."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any, Self

from odyssey_jax._text import say
from odyssey_jax._types import StopReason
from odyssey_jax.parallel import greatest

MaxTime = float | timedelta


class Interrupt:
    """What may end a run early: asked at every exit of the loop, and agreed on by all processes.

    It is part of no carry and no checkpoint: the run that goes on knows nothing of it.

    Args:
        max_seconds: How long the run may take from now on; None for as long as it takes.
        clock: Returns seconds that only grow.
    """

    def __init__(
        self, max_seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._signals = Signals()
        self._clock = clock
        self._end = math.inf if max_seconds is None else clock() + max_seconds
        self.reason = StopReason.NONE
        self.exit_code = 0

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._signals.__exit__(kind, error, traceback)

    def agree(self, steps: int) -> int:
        """Settle `reason`, and the steps of the next call, for every process alike.

        Args:
            steps: Those that this process would take.

        Returns:
            Those that all take, if there is no reason to end.
        """
        late = self._clock() >= self._end
        steps, received, late = greatest(steps, self._signals.received, late, what="fit")
        if received:
            self._signals.received = received
            self.reason, self.exit_code = StopReason.INTERRUPTED, 128 + received
        elif late:
            self.reason, self.exit_code = StopReason.TIME_BUDGET, _TIMED_OUT
        return steps

    @property
    def is_asked_for(self) -> bool:
        """Whether this process has a reason to end, which no other has been told of yet."""
        return bool(self._signals.received) or self._clock() >= self._end

    @property
    def by_signal(self) -> bool:
        """Whether it was a signal that ended the run."""
        return self.reason is StopReason.INTERRUPTED

    @property
    def by_ctrl_c(self) -> bool:
        """Whether it was Ctrl-C that ended the run, and Python's own handler is for it."""
        own = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        return own and self._signals.received == signal.SIGINT

    def pass_on(self) -> None:
        """Let a signal take its effect, once the run is saved: see `Signals.pass_on`."""
        self._signals.pass_on()


_TIMED_OUT = 124  # as timeout(1) has it


def in_seconds(max_time: Any) -> float:
    """Return a time in seconds; raise ValueError unless it is one.

    Example:
        >>> in_seconds(timedelta(minutes=2))
        120.0
    """
    seconds = max_time.total_seconds() if isinstance(max_time, timedelta) else max_time
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (number and seconds > 0):
        raise ValueError(
            "max_time must be seconds greater than 0 or a datetime.timedelta, such as "
            f"timedelta(hours=12), got {max_time!r}."
        )
    return float(seconds)


# A terminal that closes ends what runs in it as SIGTERM does; not every system has it.
_ENDING = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
_NOTED = (signal.SIGINT, *_ENDING)


class Signals:
    """A context that notes the first signal instead of letting it take effect.

    The second one, of either kind, takes effect at once, as without this. Only the
    main thread can set handlers, so in another one nothing is noted; nor is a signal that the
    program ignores, as one in the background of a shell ignores Ctrl-C.

    Python calls a handler when the main thread comes back to its own code, which it does not do
    while XLA compiles. So another thread says that the signal has come; and at a second one that
    Python does not come to within `_PATIENCE`, it ends the process, unless that is interactive.

    Example:
        >>> import signal
        >>> with Signals() as signals:
        ...     signal.raise_signal(signal.SIGINT)
        ...     signals.received == signal.SIGINT
        True
    """

    def __init__(self) -> None:
        self.received = 0
        self._noted = 0
        self._before: dict[int, tuple[Any, Any]] = {}
        self._listener: tuple[socket.socket, int, threading.Thread] | None = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _NOTED:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.getsignal(number), _action(number)
                    signal.signal(number, self._note)
            self._watch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def pass_on(self) -> None:
        """Raise what the noted signal is for, now that the run is saved.

        A handler that was there before is called. Without one, SIGTERM and SIGHUP end the
        program. Ctrl-C is left to the caller: see `Interrupt.by_ctrl_c`.

        Raises:
            SystemExit: With status 143 on SIGTERM, 129 on SIGHUP.
        """
        if not self.received:
            return
        handler = signal.getsignal(self.received)
        if callable(handler) and handler is not signal.default_int_handler:
            signal.raise_signal(self.received)
        elif self.received in _ENDING:
            raise SystemExit(128 + self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._noted += 1
        if not self.received:
            self.received = number
            return
        self._restore()
        if not callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)  # jax.distributed's would only take note
        signal.raise_signal(number)

    def _restore(self) -> None:
        for number, (handler, action) in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
            _act(number, action)
        self._before.clear()
        if self._listener is not None:
            (ours, before, thread), self._listener = self._listener, None
            signal.set_wakeup_fd(before)
            self._over.set()
            ours.close()
            thread.join(_PATIENCE)

    def _watch(self) -> None:
        """Start the thread to which the system's own handler writes the numbers of signals."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        before = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
        args = (theirs, before, frozenset(self._before))
        thread = threading.Thread(target=self._listen, args=args, daemon=True)
        thread.start()
        self._listener = ours, before, thread

    def _listen(self, wakes: socket.socket, before: int, watched: frozenset[int]) -> None:
        seen = 0
        with wakes:
            while number := wakes.recv(1):
                if before >= 0:  # an event loop's, which listens too
                    with contextlib.suppress(OSError):
                        os.write(before, number)
                if number[0] not in watched:
                    continue
                seen += 1
                if seen == 1:
                    say(
                        f"{signal.Signals(number[0]).name}: the run ends when the loop comes up; "
                        "a second one ends it at once"
                    )
                elif _is_interactive(number[0]) or self._over.wait(_PATIENCE):
                    continue
                elif self._noted < seen:
                    os._exit(128 + number[0])


_PATIENCE = 1.0  # s


def _is_interactive(number: int) -> bool:
    """Return whether Ctrl-C is for a cell, whose session is not to end."""
    return number == signal.SIGINT and (hasattr(sys, "ps1") or "ipykernel" in sys.modules)


# Python can't restore a handler that it did not set, such as jax.distributed's. So the system's
# record of it is kept, as bytes.
_BYTES = 256  # no system's `struct sigaction` is as long


def _action(number: int) -> Any:
    kept = ctypes.create_string_buffer(_BYTES)
    return kept if _sigaction(number, None, kept) else None


def _act(number: int, kept: Any) -> None:
    if kept is not None:
        _sigaction(number, kept, None)


def _sigaction(number: int, new: Any, old: Any) -> bool:
    try:
        call = ctypes.CDLL(None).sigaction
    except (AttributeError, OSError, TypeError):  # pragma: no cover - Windows has none
        return False
    return call(number, new, old) == 0
