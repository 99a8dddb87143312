"""Schedules against Optax's: cost of a step, of a join of many pieces, and of a sweep.

``python -m benchmarks.schedules [--quick] [--json FILE]``

- A step: each schedule that Optax has too, in a compiled scan of 10,000 updates of plain SGD on
  1,000 parameters, the least that a rate is ever used for. Alone in a scan is shown beside it:
  there a step is a few nanoseconds, less than one kernel of any model.
- A join of 2, 32 and 512 cosines, which should make no difference: the time to compile it, and
  the time of a step alone in a scan; Optax's of the same pieces beside it.
- A sweep: 100 settings of warm-up and cosine, each a compiled run of 100 steps, compilation
  included: a schedule of ours is data, so one program serves all; a closure of Optax's is another
  program each.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

import odyssey_jax as ody
from benchmarks._harness import (
    Ratio,
    Times,
    Version,
    arguments,
    interleave,
    ratio,
    show_ratios,
    show_times,
    write_json,
)

STEPS = 10_000
PARAMETERS = 1_000
PIECES = (2, 32, 512)
SETTINGS = 100
PAIRS: dict[str, tuple[Any, Any]] = {
    "constant": (ody.constant(0.1), optax.constant_schedule(0.1)),
    "linear": (
        ody.linear(0.1, 0.01, STEPS),
        optax.linear_schedule(0.1, 0.01, STEPS),
    ),
    "polynomial": (
        ody.schedules.polynomial(0.1, 0.01, 1.5, STEPS),
        optax.polynomial_schedule(0.1, 0.01, 1.5, STEPS),
    ),
    "square": (
        ody.schedules.polynomial(0.1, 0.01, 2, STEPS),
        optax.polynomial_schedule(0.1, 0.01, 2, STEPS),
    ),
    "cosine": (
        ody.cosine_decay(0.1, STEPS, 0.01),
        optax.cosine_decay_schedule(0.1, STEPS, 0.1),
    ),
    "exponential": (
        ody.exponential_decay(0.1, 100, 0.9),
        optax.exponential_decay(0.1, 100, 0.9),
    ),
    "staircase": (
        ody.exponential_decay(0.1, 100, 0.9, staircase=True),
        optax.exponential_decay(0.1, 100, 0.9, staircase=True),
    ),
    "piecewise constant": (
        ody.schedules.piecewise_constant([0.1, 0.05, 0.01], [3_000, 6_000]),
        optax.piecewise_constant_schedule(0.1, {3_000: 0.5, 6_000: 0.2}),
    ),
    "warm-up, cosine": (
        ody.warmup_cosine(0.1, 100, STEPS),
        optax.warmup_cosine_decay_schedule(0.0, 0.1, 100, STEPS),
    ),
    "one-cycle": (
        ody.one_cycle(0.1, STEPS),
        optax.cosine_onecycle_schedule(STEPS, 0.1),
    ),
    "restarts": (
        ody.schedules.cosine_restarts(0.1, 1_000, 2.0),
        optax.sgdr_schedule(
            [
                {"init_value": 0.1, "peak_value": 0.1, "decay_steps": n, "warmup_steps": 0}
                for n in (1_000, 2_000, 4_000, 8_000)
            ]
        ),
    ),
}

Program = Callable[[], Any]


def seconds(program: Program) -> float:
    """Seconds until the result is there."""
    start = time.perf_counter()
    jax.block_until_ready(program())
    return time.perf_counter() - start


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Program, float]:
    """A program ready to run, and the seconds it took to make."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*args).compile()
    return functools.partial(program, *args), time.perf_counter() - start


def alone(schedule: Any) -> tuple[Program, float]:
    """A scan of the schedule and a sum."""

    def run(first: jax.Array) -> Any:
        def step(carry: Any, _: None) -> Any:
            count, total = carry
            return (count + 1, total + schedule(count)), None

        return lax.scan(step, (first, jnp.zeros(())), None, STEPS)[0]

    return compiled(run, jnp.int32(0))


def anew(schedule: Any) -> tuple[Program, float]:
    """The same, with nothing traced before."""
    jax.clear_caches()
    return alone(schedule)


def in_sgd(schedule: Any) -> tuple[Program, float]:
    """A scan of updates by plain SGD with the schedule."""
    optimizer = optax.sgd(schedule)

    def run(params: jax.Array) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = optimizer.update(0.01 * params, state, params)
            return (optax.apply_updates(params, updates), state), None

        return lax.scan(step, (params, optimizer.init(params)), None, STEPS)[0]

    return compiled(run, jnp.linspace(0.0, 1.0, PARAMETERS))


def per_step(times: Times) -> Times:
    """Of a scan, the share of one step."""
    return {name: [t / STEPS for t in values] for name, values in times.items()}


def measure_steps(rounds: int) -> dict[str, Ratio]:
    """Each schedule over Optax's, in an update and alone."""
    ratios: dict[str, Ratio] = {}
    places = {"in an update by SGD": in_sgd, "alone in a scan": alone}
    for where, make in places.items():
        programs = {
            f"{name}, {whose}": make(schedule)[0]
            for name, pair in PAIRS.items()
            for whose, schedule in zip(("ours", "optax"), pair, strict=True)
        }
        versions: dict[str, Version] = {
            name: functools.partial(seconds, program) for name, program in programs.items()
        }
        times = per_step(interleave(versions, rounds, warmup=2))
        show_times(f"a step, {where}", times)
        found = {
            f"{name}, {where}": ratio(times, f"{name}, ours", f"{name}, optax", 1.1)
            for name in PAIRS
        }
        if make is in_sgd:
            ratios |= found
        else:
            print("\nalone, ours / optax, medians:")
            for name, r in found.items():
                print(f"  {name:40} {r.median:.2f}")
    return ratios


def pieces(count: int) -> tuple[Sequence[Any], Sequence[Any], list[int]]:
    """Cosines of different peaks: ours, Optax's, and where they meet."""
    length = STEPS // count
    peaks = [0.1 + 0.001 * i for i in range(count)]
    ours = [ody.cosine_decay(peak, length, 0.01) for peak in peaks]
    theirs = [optax.cosine_decay_schedule(peak, length, 0.01 / peak) for peak in peaks]
    return ours, theirs, [length * i for i in range(1, count)]


def measure_joins(rounds: int, compilations: int) -> dict[str, Ratio]:
    """Joins of ever more pieces, over the join of two."""
    compile_times: Times = {}
    places: dict[str, dict[str, Version]] = {"in an update by SGD": {}, "alone in a scan": {}}
    for count in PIECES:
        ours, theirs, boundaries = pieces(count)
        joined = {
            f"{count} pieces, ours": ody.join(ours, boundaries),
            f"{count} pieces, optax": optax.join_schedules(theirs, boundaries),
        }
        for name, schedule in joined.items():
            # The slow ones are compiled once: they only say how slow they are.
            times = compilations if "ours" in name or count < 512 else 1
            built = [anew(schedule) for _ in range(times)]
            compile_times[name] = [took for _, took in built]
            places["alone in a scan"][name] = functools.partial(seconds, built[-1][0])
            program, _ = in_sgd(schedule)
            places["in an update by SGD"][name] = functools.partial(seconds, program)
    show_times("a join, trace and compilation", compile_times)
    few, many = f"{PIECES[0]} pieces, ours", f"{PIECES[-1]} pieces, ours"
    ratios = {
        "join: compilation, 512 / 2 pieces": Ratio(
            [t / statistics.median(compile_times[few]) for t in compile_times[many]], 2.0
        )
    }
    for where, versions in places.items():
        times = per_step(interleave(versions, rounds, warmup=1))
        show_times(f"a join, a step {where}", times)
        bound = 1.25 if "SGD" in where else 2.5  # it grows as log2(pieces)
        ratios[f"join: step {where}, 512 / 2 pieces"] = ratio(times, many, few, bound)
    return ratios


def measure_sweep(rounds: int) -> dict[str, Ratio]:
    """Settings one after another, compilation included."""
    grid = list(itertools.product(range(10), range(10)))
    settings = [(1e-3 * (1 + i), 5 + j) for i, j in grid][:SETTINGS]

    def train(schedule: Any, params: jax.Array) -> jax.Array:
        optimizer = optax.sgd(schedule)

        def step(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = optimizer.update(params, state, params)
            return (optax.apply_updates(params, updates), state), None

        return lax.scan(step, (params, optimizer.init(params)), None, 100)[0][0]

    params = jnp.linspace(0.0, 1.0, PARAMETERS)

    def ours() -> Mapping[str, float]:
        jax.clear_caches()
        run = jax.jit(train)
        schedules = (ody.warmup_cosine(peak, warmup, 100) for peak, warmup in settings)
        return {"ours": seconds(lambda: [run(schedule, params) for schedule in schedules])}

    def theirs() -> Mapping[str, float]:
        jax.clear_caches()
        schedules = (
            optax.warmup_cosine_decay_schedule(0.0, peak, warmup, 100) for peak, warmup in settings
        )
        runs = (jax.jit(functools.partial(train, schedule)) for schedule in schedules)
        return {"optax": seconds(lambda: [run(params) for run in runs])}

    times = interleave({"ours": ours, "optax": theirs}, rounds, warmup=0)
    show_times(f"a sweep of {SETTINGS} settings", times)
    return {"sweep: optax / ours": ratio(times, "optax", "ours", 20.0, "higher")}


def main() -> None:
    """Measures, prints, and writes what was asked for."""
    options = arguments(str(__doc__).splitlines()[0])
    ratios = measure_steps(5 if options.quick else 31)
    ratios |= measure_joins(5 if options.quick else 21, 1 if options.quick else 5)
    ratios |= measure_sweep(1 if options.quick else 3)
    show_ratios(ratios)
    write_json(options.json, ratios)


if __name__ == "__main__":
    main()
