"""How far to let the program run before the host looks at it again."""

from __future__ import annotations


class Pace:
    """Chooses the steps of a call from the time that the last one took.

    Args:
        seconds: how long a call should take. Short enough for a progress line and for Ctrl-C,
            long enough that coming up for air costs nothing.
        first: steps of the first call, whose speed is not known yet.
        growth: how many times longer than the last a call may be: one that happened to be fast
            does not decide alone.
    """

    def __init__(self, seconds: float = 0.5, first: int = 1, growth: int = 8):
        self._seconds, self._growth = seconds, growth
        self.steps = max(first, 1)

    def took(self, steps: int, seconds: float) -> None:
        """Takes note of a call.

        Args:
            steps: train steps that it ran; one cut short by a save counts as what it was.
            seconds: wall-clock time that it took.
        """
        if steps <= 0:
            return
        wanted = self._seconds * steps / max(seconds, 1e-9)
        self.steps = max(1, int(min(wanted, self._growth * max(self.steps, steps))))
