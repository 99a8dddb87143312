"""What the benchmarks share: interleaved timing, ratios with their spread, tables, JSON.

The machine's speed drifts, so the versions to be compared take turns in one process, in a
new order each round, and a ratio is taken within a round, never across rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

Version = Callable[[], float | Mapping[str, float] | None]
Times = dict[str, list[float]]


class Ratio(NamedTuple):
    """A ratio and what it is held to.

    Attributes:
        values: One for each round.
        bound: The limit on the median.
        better: Which way is better.
    """

    values: Sequence[float]
    bound: float
    better: Literal["lower", "higher"] = "lower"

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """Whether the median keeps the bound."""
        if self.better == "lower":
            return self.median <= self.bound
        return self.median >= self.bound


def interleave(versions: Mapping[str, Version], rounds: int, warmup: int = 1) -> Times:
    """Times versions that take turns.

    Args:
        versions: Name -> what to time. It is timed as a whole, unless it returns the
            seconds that count, or several of them by name.
        rounds: How many times each is measured.
        warmup: How many rounds come before, unmeasured.

    Returns:
        Name -> seconds, one for each round.
    """
    order, shuffle = list(versions), random.Random(0).shuffle
    times: Times = {}
    for number in range(warmup + rounds):
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            result = versions[name]()
            elapsed = time.perf_counter() - start
            found = result if isinstance(result, Mapping) else {name: result or elapsed}
            for key, seconds in found.items() if number >= warmup else ():
                times.setdefault(key, []).append(seconds)
    return times


def ratio(
    times: Times,
    over: str,
    under: str,
    bound: float,
    better: Literal["lower", "higher"] = "lower",
) -> Ratio:
    """Divides the times of two versions, round by round."""
    values = [a / b for a, b in zip(times[over], times[under], strict=True)]
    return Ratio(values, bound, better)


def show_times(title: str, times: Times) -> None:
    """Prints the times of each version: median and spread."""
    width = max(map(len, times))
    print(f"\n{title}\n{'':{width}}  {'median':>10} {'min':>10} {'max':>10}")
    for name, values in times.items():
        row = (statistics.median(values), min(values), max(values))
        print(f"{name:{width}}  " + " ".join(f"{_seconds(value):>10}" for value in row))


def show_ratios(ratios: Mapping[str, Ratio]) -> None:
    """Prints the ratios beside their bounds."""
    width = max(map(len, ratios))
    print(f"\n{'ratio':{width}}  {'median':>8} {'min':>8} {'max':>8}  bound")
    for name, r in ratios.items():
        sign = "<=" if r.better == "lower" else ">="
        print(
            f"{name:{width}}  {r.median:8.3f} {min(r.values):8.3f} {max(r.values):8.3f}  "
            f"{sign} {r.bound:g}{'' if r.holds else '  MISSED'}"
        )


def _seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return (
                f"{value / size:.3g} {unit}" if value < 100 * size else f"{value / size:.0f} {unit}"
            )
    return f"{value / 1e-6:.3g} us"


def arguments(description: str) -> argparse.Namespace:
    """Reads the options that every benchmark has: ``--quick`` and ``--json FILE``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios there")
    return parser.parse_args()


def write_json(path: Path | None, ratios: Mapping[str, Ratio]) -> None:
    """Writes the ratios and the versions of what was measured, if there is where to."""
    if path is None:
        return
    found: dict[str, Any] = {
        name: {
            "median": r.median,
            "min": min(r.values),
            "max": max(r.values),
            "bound": r.bound,
            "better": r.better,
        }
        for name, r in ratios.items()
    }
    path.write_text(json.dumps({"ratios": found, "versions": versions()}, indent=2) + "\n")


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that the figures depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}
