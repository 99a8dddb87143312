"""Schedules that come round again: their joints to the bit, and what they refuse."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax.schedules as ody_s


def test_a_cycle_is_at_its_two_values_to_the_bit():
    for up, down in ((4, 9), (1, 1), (10**9, 7), (0, 3), (3, 0)):
        schedule = ody_s.cyclic(0.1, 1 / 3, up, down)
        starts = (up + down) * np.arange(2, dtype=np.int64)
        if up:
            np.testing.assert_array_equal(schedule(starts), np.float32(0.1))
        if down:
            np.testing.assert_array_equal(schedule(starts + up), np.float32(1 / 3))
    halves = ody_s.cyclic(0.0, 1 / 3, 5, mode="triangular2")(10 * np.arange(20) + 5)
    np.testing.assert_array_equal(halves, np.float32(1 / 3) / 2.0 ** np.arange(20))


def test_an_amplitude_is_any_function_of_the_cycle_or_the_step():
    inverse = lambda x: 1 / (2 + x.astype(jnp.float32))
    peaks = 6 * np.arange(5) + 3
    by_cycle = ody_s.cyclic(0.0, 1.0, 3, amplitude=inverse)
    np.testing.assert_allclose(by_cycle(peaks), 1 / (2 + np.arange(5)), rtol=1e-6)
    by_step = ody_s.cyclic(0.0, 1.0, 3, amplitude=inverse, amplitude_of="step")
    np.testing.assert_allclose(by_step(peaks), 1 / (2 + peaks), rtol=1e-6)


BAD = [
    (lambda: ody_s.cyclic(0.1, 0.2, 0), r"step_size_up \+ step_size_down .*step_size_down = 0"),
    (lambda: ody_s.cyclic(0.1, 0.2, 2**30, 2**30), r"must be in the range \[1, 2\*\*31 - 1\]"),
    (lambda: ody_s.cyclic(0.1, 0.2, 5, mode="square"), r"mode must be one of 'triangular'"),  # pyright: ignore
    (lambda: ody_s.cyclic(0.1, 0.2, 5, gamma=0.9), r"belongs to mode = 'exp_range'.*gamma = 0.9"),
    (
        lambda: ody_s.cyclic(0.1, 0.2, 5, mode="triangular2", amplitude=ody_s.constant(0.5)),
        r"leave mode at 'triangular'; got mode = 'triangular2'",
    ),
    (lambda: ody_s.cyclic(0.1, 0.2, 5, amplitude_of="step"), r"give amplitude too; got .*'step'"),
    (lambda: ody_s.cyclic(0.1, 0.2, 5, amplitude=0.5), r"amplitude must be a schedule"),  # pyright: ignore
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
