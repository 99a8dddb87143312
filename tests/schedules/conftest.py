"""The table of all schedules: a new one is covered by the whole contract by adding a row."""

from __future__ import annotations

import functools
import os

import jax
import numpy as np
import pytest

from odyssey_jax.schedules import Schedule
from tests.schedules.cases import compositions, cycles, decays, first, host
from tests.schedules.cases.case import LAST, Case, same_shape

CASES = [*first.CASES, *compositions.CASES, *cycles.CASES, *decays.CASES, *host.CASES]

# The first row of each class. What the class and not the formula decides is tried on these
# (argument `sample` of a test).
KINDS = list({type(case.build(100)): case for case in reversed(CASES)}.values())[::-1]

# Their choices, which are static, follow the horizon: each horizon is another program.
OF_SEVERAL_PROGRAMS = {"from_callable", "from_python", "polynomial root begun late"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument, rows in (("case", CASES), ("sample", KINDS)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, rows, ids=lambda row: row.name)


def interesting_steps(total: int) -> np.ndarray:
    """Both tails, the joints, what is beyond the end, and a sample in between."""
    rng = np.random.default_rng(total)
    tail = np.unique(np.geomspace(1, max(total // 2, 2), 60).astype(np.int64))
    joints = [total * k // 64 + d for k in range(65) for d in (-1, 0, 1)]
    beyond = [2 * total, LAST]
    steps = np.concatenate([tail, total - tail, joints, rng.integers(0, total + 1, 400), beyond])
    return same_shape(np.unique(np.clip(steps, 0, LAST)))


# What a user's programs are compiled with; the rest of the suite is compiled in less time.
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
if "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]:  # see the suite's settings
    OPTIMIZED["xla_cpu_use_fusion_emitters"] = True


class Table:
    """The values of all rows, from one compiled program for the whole table.

    The programs of single rows take twice the time, and one for each row and test ten times.
    It is the optimized compiler's, as a user's is.
    """

    def __init__(self) -> None:
        self.traces = 0
        self._program = jax.jit(self._all, compiler_options=OPTIMIZED)
        self._whole = functools.cache(lambda total: self._run(total, interesting_steps(total)))
        self._short = functools.cache(
            lambda total, dtype: self._run(total, same_shape(np.arange(250)).astype(dtype))
        )

    def _all(self, schedules: dict[str, Schedule], steps: jax.Array) -> dict[str, jax.Array]:
        self.traces += 1
        return {name: schedule(steps) for name, schedule in schedules.items()}

    def trace(self, total: int, dtype: str) -> None:
        """Trace the program without compiling it."""
        rows = {case.name: case.build(total).precise() for case in CASES}
        for name in OF_SEVERAL_PROGRAMS:
            rows.pop(name)
        self._program.trace(rows, same_shape(np.arange(250)).astype(dtype))

    def _run(self, total: int, steps: np.ndarray) -> dict[str, jax.Array]:
        # As an argument of jit, a schedule of all its digits.
        rows = {case.name: case.build(total).precise() for case in CASES}
        alone = {name: rows.pop(name)(steps) for name in OF_SEVERAL_PROGRAMS}
        steps = steps if steps.dtype == np.float32 else steps.astype(np.int32)
        return alone | self._program(rows, steps)

    def whole(self, case: Case, total: int) -> np.ndarray:
        """The values at `interesting_steps(total)`."""
        return np.asarray(self._whole(total)[case.name])

    def short(self, case: Case, total: int, dtype: str = "int32") -> jax.Array:
        """The values at the steps 0 to 249, 4 times."""
        return self._short(total, dtype)[case.name]


@pytest.fixture(scope="session")
def table() -> Table:
    return Table()


@pytest.fixture
def op_by_op():
    """Run each operation by itself, where only the mathematics or the dtypes are asked.

    A program for each schedule is what the suite's time went to. Operations on few shapes are
    compiled once for all of them; that fused programs give the same is held by the tests of
    `Table` and by `test_eager_jit_vmap_and_scan_agree`.
    """
    with jax.disable_jit():
        yield
