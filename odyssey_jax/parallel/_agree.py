"""What the processes of one program agree on, by the key-value service of jax.distributed.

No device takes part: a thread may meet the others' while the program computes.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import jax
from jax._src import distributed  # not public; Orbax imports it from here too

from odyssey_jax._text import say

_PATIENCE = 30 * 60.0  # seconds; JAX notices a process that died sooner
_named_after = 300.0  # seconds after which those that are waited for are named
_SLICE = 1000  # ms; Python runs signal handlers between two waits only

_numbers: dict[str, Iterator[int]] = collections.defaultdict(itertools.count)


class ProcessFailedError(RuntimeError):
    """Another process of the program failed, so that this one can't go on.

    Attributes:
        process: The other process's index.
        reason: What it said.
        errno: The system's error number, where it was one.
    """

    def __init__(self, process: int, reason: str, errno: int | None = None) -> None:
        super().__init__(f"process {process}: {reason}")
        self.process, self.reason, self.errno = process, reason, errno


class Meeting:
    """A sequence of decisions that all processes take together, each in the same order.

    Where there is one process, it costs nothing.

    Args:
        name: The same in all processes. Several of one name are told apart by their order.

    Example:
        >>> Meeting("example").decide(3, max, "size")
        3
    """

    def __init__(self, name: str) -> None:
        # The service takes "//", as of a URL, for "/", and lists keys so.
        self._place = f"odyssey_jax/{name}/{next(_numbers[name])}".replace("//", "/")
        self._round = 0
        self._told: Exception | None = None

    def decide(
        self,
        value: Any,
        choose: Callable[[list[Any]], Any],
        what: str,
        patience: float | None = None,
    ) -> Any:
        """Choose one value for all: a barrier and a broadcast.

        Args:
            value: This process's; JSON.
            choose: From the values, in the order of the processes, to the one for all; JSON.
                Called in process 0 only.
            what: Which decision this is, for an error if another process is at another one.
            patience: Seconds to wait for the others; None is `_PATIENCE`.

        Returns:
            What was chosen; the same in every process.

        Raises:
            ProcessFailedError: If another process failed instead of coming, or process 0 and
                another are at different decisions.
            TimeoutError: If another process did not come.
        """
        if jax.process_count() == 1:
            return choose([value])
        here = self._next()
        if jax.process_index() == 0:
            answer = self._conclude(here, {"value": value, "what": what}, choose, patience)
        else:
            _say(f"{here}/{jax.process_index()}", {"value": value, "what": what})
            answer = _hear(f"{here}/answer", patience=patience)
        return _value(answer)

    @contextlib.contextmanager
    def together(self, reason: Callable[[Exception], str] = str) -> Iterator[None]:
        """Tell the others of an exception: they wait at a decision, or will.

        It fails the next decision for all instead of taking part in it, and does not wait.

        Args:
            reason: Says what to tell them of it.
        """
        try:
            yield
        except ProcessFailedError:  # they know
            raise
        except Exception as error:
            if jax.process_count() > 1 and error is not self._told:
                self._told = error
                me = jax.process_index()
                _say(f"{self._next()}/{me or 'answer'}", _failure(me, error, reason(error)))
            raise

    def _next(self) -> str:
        self._round += 1
        return f"{self._place}/{self._round}"

    def _conclude(
        self,
        here: str,
        own: dict[str, Any],
        choose: Callable[[list[Any]], Any],
        patience: float | None,
    ) -> dict[str, Any]:
        said = [own, *_hear_all(here, own["what"], patience)]
        # All have come, so all have read the answer of the round before.
        client().key_value_delete(f"{self._place}/{self._round - 1}")
        answer = next((s for s in said if "failed" in s), None) or _apart(said)
        if answer is None:
            try:
                answer = {"value": choose([s["value"] for s in said])}
            except Exception as error:
                self._told = error
                _say(f"{here}/answer", _failure(0, error, str(error)))
                raise
        _say(f"{here}/answer", answer)
        return answer


_main = Meeting("main")


def decide(value: Any, choose: Callable[[list[Any]], Any], what: str) -> Any:
    """Choose one value for all, from the main thread: see `Meeting.decide`.

    Example:
        >>> decide(3, sum, "example")
        3
    """
    return _main.decide(value, choose, what)


def greatest(*values: int, what: str) -> tuple[int, ...]:
    """Return the greatest of each value over all processes; each must call this.

    Args:
        *values: Integers.
        what: Which decision this is, for an error if another process is at another one.

    Returns:
        As many integers, the same on every process; on one process, the values.

    Example:
        >>> greatest(3, False, what="example")
        (3, 0)
    """
    largest = lambda each: [max(column) for column in zip(*each, strict=True)]
    return tuple(decide([int(value) for value in values], largest, what))


def from_first(value: Any, what: str) -> Any:
    """Broadcast process 0's value; all must call this, from the main thread.

    Args:
        value: JSON; the other processes' is ignored.
        what: Which decision this is, for an error if another process is at another one.

    Returns:
        Process 0's; the same in every process.

    Example:
        >>> from_first("here", "example")
        'here'
    """
    return decide(value, first, what)


def first(values: list[Any]) -> Any:
    """Return process 0's."""
    return values[0]


def together() -> contextlib.AbstractContextManager[None]:
    """Tell the others of an exception: it is raised at their next decision."""
    return _main.together()


def is_first() -> bool:
    """Return whether this is the process that writes for all."""
    return jax.process_index() == 0


def _failure(process: int, error: Exception, reason: str) -> dict[str, Any]:
    text = " ".join(reason.split()) or type(error).__name__
    number = getattr(error, "errno", None)
    return {"failed": [process, text, number if isinstance(number, int) else None]}


def _apart(said: list[dict[str, Any]]) -> dict[str, Any] | None:
    for process, each in enumerate(said):
        if each["what"] != said[0]["what"]:
            reason = (
                f"it is at {each['what']!r}, and process 0 at {said[0]['what']!r}: all must call "
                "the same functions of odyssey_jax in the same order"
            )
            return {"failed": [process, reason, None]}
    return None


def _value(answer: dict[str, Any]) -> Any:
    if "failed" in answer:
        raise ProcessFailedError(*answer["failed"])
    return answer["value"]


def client() -> Any:
    """Return the client of jax.distributed's key-value service."""
    client = distributed.global_state.client
    if client is None:
        raise RuntimeError(
            f"this program runs on {jax.process_count()} processes, which can't agree on anything "
            "without jax.distributed: call jax.distributed.initialize() first."
        )
    return client


def _say(key: str, what: dict[str, Any]) -> None:
    client().key_value_set(key, json.dumps(what))


def set_timeout(seconds: float) -> None:
    """Set after how long those that are waited for are named."""
    global _named_after
    _named_after = seconds


def _hear(key: str, waiting: str = "", patience: float | None = None) -> dict[str, Any]:
    begun, said = time.monotonic(), 0
    deadline = begun + (_PATIENCE if patience is None else patience)
    while True:
        if waiting and time.monotonic() - begun > (said + 1) * _named_after:
            said += 1
            say(f"odyssey_jax: waiting {said * _named_after:g} s for {waiting}")
        try:
            return json.loads(client().blocking_key_value_get(key, _SLICE))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            if time.monotonic() > deadline:
                _give_up(key, error)


def _hear_all(here: str, what: str, patience: float | None) -> Sequence[dict[str, Any]]:
    """Return what every process but process 0 said: mostly in 2 calls, however many there are."""
    keys = [f"{here}/{process}" for process in range(1, jax.process_count())]
    while True:
        said = dict(client().key_value_dir_get(f"{here}/"))
        missing = next((key for key in keys if key not in said), None)
        if missing is None:
            return [json.loads(said[key]) for key in keys]
        process = missing.rpartition("/")[2]
        _hear(missing, f"process {process}, which did not come to {what!r}", patience)


def _give_up(key: str, error: Exception) -> NoReturn:
    raise TimeoutError(
        f"the other processes did not come to {key!r} within {_PATIENCE / 60:.0f} minutes: all "
        "must call the same functions of odyssey_jax in the same order."
    ) from error
