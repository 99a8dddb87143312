"""A trace of chosen steps by JAX's profiler."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax

from odyssey_jax._checks import check_count
from odyssey_jax.callbacks import at
from odyssey_jax.data import HostSource
from odyssey_jax.fit._hooks import Hook, View
from odyssey_jax.store import BucketPath, local_directory


@dataclasses.dataclass(frozen=True)
class Profile(Hook):
    """The hook that `profile` makes; `bound` to a plan it knows where to write."""

    first: int = 1
    last: int = 2
    directory: Path | None = None

    def bound(self, plan: Any) -> Hook:
        """Return the hook that writes to a plan's directory.

        Raises:
            ValueError: If there is no directory, or no trace of these steps can be taken.
        """
        span = f"profile(steps=({self.first}, {self.last}))"
        where = self.directory
        if where is None and plan.directory is None:
            raise ValueError(f"{span} needs a directory: give it one, or fit(directory=...).")
        if self.last > plan.last_step:
            raise ValueError(f"{span} ends after the {plan.last_step} train steps of the run.")
        block = 1 if isinstance(plan.train, HostSource) else plan.calendar.block
        begins, ends = (-(-step // block) * block for step in (self.first, self.last))
        if begins == ends:
            raise ValueError(
                f"{span} lies within a block of {block} train steps, between which no run comes "
                f"up: use multiples of {block}."
            )
        if where is None and isinstance(plan.directory, BucketPath):
            raise ValueError(
                f"{span} writes to this machine, and the run to {str(plan.directory)!r}: give "
                "profile a local directory."
            )
        tracer = _Tracer(str(where or plan.directory / "profile"), begins, ends)
        return Hook(tracer.look, self.when, close=tracer.stop)


class _Tracer:
    """Takes a trace from one look to another."""

    def __init__(self, directory: str, begins: int, ends: int):
        self._directory, self._begins, self._ends = directory, begins, ends
        self._running = False

    def look(self, view: View) -> None:
        if view.step == self._begins:
            jax.profiler.start_trace(self._directory)
            self._running = True
        elif view.step >= self._ends:
            self.stop()

    def stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def profile(steps: range | tuple[int, int], directory: str | Path | None = None) -> Hook:
    """Trace some train steps with JAX's profiler, for `fit(hooks=[...])`.

    The program comes up where the trace begins and ends, at the ends of the blocks of at most 10
    steps that these steps lie in. A run that is over before, or fails, ends the trace there; one
    that goes on from within takes none. TensorBoard's profile plugin and Perfetto show it.

    Args:
        steps: `range(first, last)`, or `(first, last)`: from when `first` train steps are done, at
            least 1, until `last` are.
        directory: Where to write; None is "profile" in the run's directory.

    Returns:
        The hook.

    Raises:
        ValueError: If the steps are no such span.

    Example:
        >>> import tempfile, pathlib, jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = ody.fit(task, optax.sgd(0.1), data, epochs=5, writers=[],
        ...                      hooks=[ody.profile(range(4, 8), folder)])
        ...     len(list(pathlib.Path(folder).rglob("*.xplane.pb")))
        1
    """
    if isinstance(steps, range):
        is_span, span = steps.step == 1, (steps.start, steps.stop)
    else:
        is_span = isinstance(steps, tuple | list) and len(steps) == 2
        span = tuple(steps) if is_span else (0, 0)
    if not is_span:
        raise ValueError(f"steps must be range(first, last) or (first, last), got {steps!r}.")
    first, last = (check_count("each of steps", step, 1) for step in span)
    if last <= first:
        raise ValueError(f"steps must end after they begin, got {steps!r}.")
    where = None if directory is None else local_directory(directory)
    marks = at(steps=[first, last])
    return Profile(_never, marks, first=first, last=last, directory=where)


def _never(view: View) -> None:
    raise RuntimeError(f"a profile that is not bound to a run was called at {view!r}")
