"""Starting a program on several processes, and noticing that one of them is no more."""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax

from odyssey_jax._text import say
from odyssey_jax.parallel import _agree

_ALIVE, _GONE = "odyssey_jax/alive", "odyssey_jax/gone"
_ENDED = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 300.0,
) -> None:
    """Start `jax.distributed`, and watch that the other processes live.

    Each process says every second or so that it lives. One that is not heard of for `timeout` is
    named on stderr, with its host, and this process ends with exit status 75: what was committed
    stays, and the same command goes on from there. Without it JAX ends all after 100 s. A process
    that lives but does not come to what the others decide together is named as soon.

    Args:
        coordinator_address: "host:port" of process 0; None is found as JAX finds it, on SLURM,
            Kubernetes, Open MPI and TPU pods.
        num_processes: How many there are; None is found.
        process_id: Which this one is, from 0; None is found.
        timeout: Seconds, at least 1.

    Raises:
        ValueError: If `timeout` is less; or nothing is given, and JAX finds no cluster.
    """
    if not timeout >= 1:
        raise ValueError(f"timeout must be at least 1 second, got {timeout!r}.")
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            # JAX's own notice, without a name, comes later.
            heartbeat_timeout_seconds=max(100, math.ceil(2 * timeout)),
        )
    except ValueError as error:
        raise ValueError(
            f"jax.distributed can't start: {error} Outside of a cluster that JAX knows (SLURM, "
            "Kubernetes, Open MPI, TPU pods) give the coordinator's address, the number of "
            "processes and the index of this one."
        ) from error
    _agree.set_timeout(timeout)
    if jax.process_count() > 1:
        _Watch(timeout).start()


class _Watch(threading.Thread):
    """Says that this process lives, and ends it when another one doesn't.

    Process 0, which has what all say, looks for who is silent and tells the others; these look
    whether it answers. So what is asked for grows as the processes do, and not as their square.
    """

    def __init__(self, timeout: float):
        super().__init__(name="odyssey_jax watch", daemon=True)
        self._timeout, self._every = timeout, min(1.0, timeout / 10)
        self._client = _agree.client()
        self._me = str(jax.process_index())
        self._over = threading.Event()
        self._seen = Seen(time.monotonic())
        self._answers, self._first = 0, {"host": "another host", "pid": "unknown"}
        atexit.register(self._leave)  # a process that has ended well is not missed
        if self._me != "0":
            how: dict[str, Any] = {"name": "odyssey_jax watch of process 0", "daemon": True}
            threading.Thread(target=self._watch_first, **how).start()

    def _leave(self) -> None:
        self._over.set()
        self.join(1.0)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_delete(f"{_ALIVE}/{self._me}")

    def run(self) -> None:
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        look = self._look if self._me == "0" else self._listen
        count = 0
        while not self._over.wait(self._every):
            count += 1
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # JAX ends us if it is over
                mine = json.dumps({**who, "count": count})
                self._client.key_value_set(f"{_ALIVE}/{self._me}", mine, allow_overwrite=True)
                if gone := look():
                    self._end(gone)
                self._answers = count

    def _look(self) -> Mapping[str, Mapping[str, Any]]:
        others = self._all(_ALIVE)
        others.pop(self._me, None)
        gone = self._seen.gone(others, time.monotonic(), self._timeout)
        for name, who in gone.items():
            self._client.key_value_set(f"{_GONE}/{name}", json.dumps(who))
        if gone:
            self._over.wait(3 * self._every)  # the others ask this process, until it ends
        return gone

    def _listen(self) -> Mapping[str, Mapping[str, Any]]:
        if not self._answers:
            first = self._client.blocking_key_value_get(f"{_ALIVE}/0", int(1000 * self._timeout))
            self._first = json.loads(first)
        return self._all(_GONE)

    def _all(self, where: str) -> dict[str, Any]:
        found = dict(self._client.key_value_dir_get(f"{where}/"))
        return {key.rpartition("/")[2]: json.loads(value) for key, value in found.items()}

    def _watch_first(self) -> None:
        """End this process when process 0 doesn't answer: calls to it hang."""
        while not self._over.wait(self._every):
            first = {"0": {**self._first, "count": self._answers}}
            if gone := self._seen.gone(first, time.monotonic(), self._timeout):
                self._end(gone)

    def _end(self, gone: Mapping[str, Mapping[str, Any]]) -> None:
        for name, who in gone.items():
            say(
                f"odyssey_jax: process {name} (pid {who['pid']} on {who['host']}) was not heard of "
                f"for {self._timeout:g} s; process {self._me} ends. What was committed stays: the "
                "same command goes on from there."
            )
        os._exit(_ENDED)  # the main thread may wait for the other for ever


class Seen:
    """When each process was heard of for the last time."""

    def __init__(self, now: float):
        self._last: dict[str, tuple[int, float]] = {}
        self._looked = now

    def gone(
        self, found: Mapping[str, Mapping[str, Any]], now: float, timeout: float
    ) -> dict[str, Mapping[str, Any]]:
        """Take in what processes say, and return those that have been silent for too long.

        Where this process itself did not run for a while, nobody is blamed for it.
        """
        slept = now - self._looked > timeout / 2
        self._looked = now
        for name, who in found.items():
            count, _ = self._last.get(name, (-1, now))
            if slept or who["count"] != count:
                self._last[name] = (who["count"], now)
        return {name: who for name, who in found.items() if now - self._last[name][1] > timeout}
