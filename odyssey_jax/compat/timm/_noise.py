"""timm's noise, number for number: what PyTorch's generator gives for a seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from odyssey_jax.compat._arguments import is_sequence, require
from odyssey_jax.schedules import Schedule, StepCount, builds, from_python, node, product

_CHOICE = {"static": True}


@node
class TimmNoise(Schedule):
    """A random factor for each step; see `timm_noise`."""

    begin: int = dataclasses.field(metadata=_CHOICE)
    end: int | None = dataclasses.field(metadata=_CHOICE)
    pct: float = dataclasses.field(metadata=_CHOICE)
    std: float = dataclasses.field(metadata=_CHOICE)
    seed: int = dataclasses.field(metadata=_CHOICE)
    kind: str = dataclasses.field(metadata=_CHOICE)

    def at(self, now: StepCount) -> jax.Array:
        """The factors, made on the host."""
        return from_python(self._factor).at(now)

    def _factor(self, step: float) -> float:
        within = step >= self.begin and (self.end is None or step < self.end)
        return 1 + self._drawn(int(step)) if within else 1.0

    def _drawn(self, step: int) -> float:
        words = _words(self.seed + step)
        if self.kind == "uniform":
            uniform = (next(words) & (2**24 - 1)) / 2**24
            return 2 * (uniform - 0.5) * self.pct
        small = (x for x in map(self.std.__mul__, _normals(words)) if abs(x) < self.pct)
        return next(small)


def _words(seed: int) -> Iterator[int]:
    """The 32-bit words of PyTorch's CPU generator after `manual_seed(seed)`."""
    generator = np.random.MT19937()
    generator._legacy_seeding(seed % 2**32)
    while True:
        yield int(generator.random_raw())


def _normals(words: Iterator[int]) -> Iterator[float]:
    """The numbers of `torch.randn(1)`, float32, one call after another: Box and Muller's pairs."""
    while True:
        angle = 2 * math.pi * _double(words)
        radius = math.sqrt(-2 * math.log1p(-_double(words)))
        for side in (math.cos(angle), math.sin(angle)):
            yield float(np.float32(radius * side))


def _double(words: Iterator[int]) -> float:
    high, low = next(words), next(words)
    return ((high << 32 | low) & (2**53 - 1)) / 2**53


@builds(TimmNoise)
def timm_noise(
    begin: int,
    end: int | None = None,
    pct: float = 0.67,
    std: float = 1.0,
    seed: int = 42,
    kind: str = "normal",
) -> TimmNoise:
    r"""Give the factor $1 + x_t$ that timm multiplies a rate by, with the same $x_t$ as there.

    $x_t$ is normal with deviation `std`, drawn again until $|x_t|$ is less than `pct`, or uniform
    in $[-pct, pct)$, from PyTorch's generator with the seed `seed + t`. It is made on the host
    (see `from_python`).

    Args:
        begin: The first step with noise.
        end: The first step after it without; None for no end.
        pct: The bound.
        std: The deviation.
        seed: The seed at step 0.
        kind: "normal" or "uniform".

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        `timm.scheduler.scheduler.Scheduler`.

    Example:
        >>> from odyssey_jax.compat import timm
        >>> noise = timm.timm_noise(begin=10, end=20)
        >>> print(noise(9), noise(20))
        1.0 1.0
    """
    for name, number in (("pct", pct), ("std", std)):
        require(lambda x: x > 0, name, number, "above 0")
    # Each draw succeeds with a chance of about pct / std: below this, it would take for ever.
    require(lambda x: x >= 1e-4 * std, "pct", pct, "at least 1e-4 of std")
    require(("normal", "uniform").__contains__, "kind", kind, "'normal' or 'uniform'")
    return TimmNoise(begin, end, pct, std, seed, kind)


@dataclasses.dataclass(frozen=True)
class Noise:
    """The arguments of timm's schedulers that are about noise."""

    noise_range_t: Any
    noise_pct: Any
    noise_std: Any
    noise_seed: Any
    kind: str = "normal"

    def factor(self) -> Schedule | None:
        """The noise as a factor; None where there is none."""
        steps = self.noise_range_t
        if steps is None:
            return None
        begin, end = steps[:2] if is_sequence(steps) else (steps, None)
        seed = 42 if self.noise_seed is None else self.noise_seed
        # The rate of step 0 is set when the scheduler is made, without noise.
        begin = max(math.ceil(begin), 1)
        end = None if end is None else math.ceil(end)
        return timm_noise(begin, end, self.noise_pct, self.noise_std, seed, self.kind)

    def on(self, schedule: Schedule) -> Schedule:
        """The schedule with the noise."""
        factor = self.factor()
        return schedule if factor is None else product([schedule, factor])
