"""SIGINT and SIGTERM: noted while a run is trained, and passed on when it is saved."""

from __future__ import annotations

import ctypes
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Signals:
    """Notes the first signal, while it is entered, instead of what the signal would do.

    The second one, of either kind, does at once what it would have done without this. Only the
    main thread can set handlers, so in another one nothing is noted; nor is a signal that the
    program ignores, as one in the background of a shell ignores Ctrl-C.

    Example:
        >>> import signal
        >>> with Signals() as signals:
        ...     signal.raise_signal(signal.SIGINT)
        ...     signals.received == signal.SIGINT
        True
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, tuple[Any, Any]] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.getsignal(number), _action(number)
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def pass_on(self) -> None:
        """Does, now that the run is saved, what the noted signal is for.

        A handler that was there before is called. Without one, SIGTERM ends the program, and
        Ctrl-C has done what it is for: the run has come back.

        Raises:
            SystemExit: with status 143, on SIGTERM.
        """
        if not self.received:
            return
        handler = signal.getsignal(self.received)
        if callable(handler) and handler is not signal.default_int_handler:
            signal.raise_signal(self.received)
        elif self.received == signal.SIGTERM:
            raise SystemExit(128 + self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
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


# A handler that Python did not set, such as jax.distributed's, Python does not know, and could
# not set again: the system's own record of it is kept, whatever is in it.
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
