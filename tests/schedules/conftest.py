"""The table of all schedules: a new one is covered by the whole contract by adding a row."""

from __future__ import annotations

import pytest

from tests.schedules.cases import compositions, cycles, decays, first, host
from tests.schedules.cases.case import Case

CASES = [*first.CASES, *compositions.CASES, *cycles.CASES, *decays.CASES, *host.CASES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture
def all_cases() -> list[Case]:
    return CASES
