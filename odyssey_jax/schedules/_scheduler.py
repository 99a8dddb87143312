"""One interface for people who step by hand, over any schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import as_schedule
from odyssey_jax.schedules._fields import STEPS
from odyssey_jax.schedules._steps import LAST_STEP, clamp_step

STATE_VERSION = 1


@node
class Scheduler:
    """A schedule and where it stands: an immutable pytree, so every method gives a new one.

    The rate is `schedule(count)`: what is in force for update `count`, 0-based. It goes through
    jit, vmap and scan as any pytree does, and is saved and restored as one; `state_dict` is for
    what holds plain data only.

    Attributes:
        schedule: The schedule.
        count: Updates done so far, int32 scalar; it stops at 2**31 - 1.

    Example:
        >>> from odyssey_jax.schedules import Scheduler, linear_warmup
        >>> scheduler = Scheduler.init(linear_warmup(0.1, 10))
        >>> scheduler = scheduler.step().step()
        >>> print(f"{scheduler.get_lr():.3g}")
        0.02
        >>> state = scheduler.state_dict()
        >>> state["step"]
        2
        >>> scheduler = Scheduler.init(linear_warmup(0.1, 10)).load_state_dict(state)
        >>> print(f"{scheduler.get_lr():.3g}")
        0.02
    """

    schedule: Schedule
    count: jax.Array

    @classmethod
    def init(cls, schedule: Schedule | Callable[[Any], Any], step: Any = 0) -> Scheduler:
        """Stand at a step of a schedule.

        Args:
            schedule: The schedule, or a plain function of the step.
            step: Updates already done; scalar, in [0, 2**31 - 1].

        Returns:
            The scheduler.

        Raises:
            ValueError: If the schedule is none, or the step is out of range.
        """
        STEPS("step", step)
        return cls(as_schedule("schedule", schedule), clamp_step(step).whole)

    def step(self) -> Scheduler:
        """Return the same schedule, one step further.

        Returns:
            The new scheduler; this one is unchanged.
        """
        return dataclasses.replace(self, count=jnp.minimum(self.count, LAST_STEP - 1) + 1)

    def get_lr(self) -> jax.Array:
        """Return the rate in force for the next update.

        Returns:
            float32 scalar.
        """
        return self.schedule(self.count)

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands and on which schedule, as plain data, ready for JSON.

        Returns:
            `{"version": 1, "step": int, "schedule": dict}`.
        """
        return {
            "version": STATE_VERSION,
            "step": int(self.count),
            "schedule": self.schedule.to_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Scheduler:
        """Stand where a saved scheduler stood, on the same schedule.

        Args:
            state: What `state_dict` gave.

        Returns:
            The new scheduler; this one is unchanged.

        Raises:
            ValueError: If the state is of another schedule (the message says how they differ),
                of another version, or not a scheduler's.
        """
        missing = [key for key in ("version", "step", "schedule") if key not in state]
        if missing:
            raise ValueError(
                f"This is not the state of a scheduler: it has no {', '.join(missing)}; "
                f"it has {', '.join(map(str, state)) or 'nothing'}."
            )
        if state["version"] != STATE_VERSION:
            raise ValueError(
                f"This state was written in version {state['version']!r} of its form; this library "
                f"reads version {STATE_VERSION}. Use the library that wrote it."
            )
        changes = differences(state["schedule"], self.schedule.to_dict())
        if changes:
            raise ValueError(
                "This is the state of a different schedule: "
                + "; ".join(changes)
                + ". To go on with the new one, use Scheduler.init(schedule, step="
                + f"{state['step']!r})."
            )
        return Scheduler.init(self.schedule, state["step"])


def differences(saved: Any, here: Any, where: str = "schedule") -> list[str]:
    """Return how two schedules' plain data differ: one phrase for each place.

    Args:
        saved: What `Schedule.to_dict` gave for one.
        here: The same for the other.
        where: What the place is called.

    Returns:
        Phrases such as `schedule.decay_steps was 100, here it is 200`; none if they are equal.

    Example:
        >>> from odyssey_jax.schedules import constant, differences
        >>> differences(constant(0.1).to_dict(), constant(0.2).to_dict())
        ['schedule.value was 0.1, here it is 0.2']
    """
    both_maps = isinstance(saved, Mapping) and isinstance(here, Mapping)
    if both_maps and saved.get("name") == here.get("name"):
        found = []
        for key in dict.fromkeys([*saved, *here]):
            found += differences(saved.get(key), here.get(key), f"{where}.{key}")
        return found
    if isinstance(saved, list) and isinstance(here, list) and len(saved) == len(here):
        pairs = enumerate(zip(saved, here, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]")]
    if saved == here:
        return []
    return [f"{where} was {_brief(saved)}, here it is {_brief(here)}"]


def _brief(x: Any) -> str:
    """Return a schedule as its name and arguments, anything else as it is."""
    if not isinstance(x, Mapping) or "name" not in x:
        return f"[{', '.join(map(_brief, x))}]" if isinstance(x, list) else repr(x)
    rest = ", ".join(f"{key}={_brief(value)}" for key, value in x.items() if key != "name")
    return f"{x['name']}({rest})"
