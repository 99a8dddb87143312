"""Compositions as methods and operators, which read in the order in which things happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from ._check import require_divisor
from ._numbers import is_number

if TYPE_CHECKING:
    from ._base import Schedule

_Callable = Callable[[Any], Any]


class Operators:
    """What every schedule can be composed with: `+`, `-`, `*`, `/`, and the methods below.

    The compositions are schedules, so their modules are built on this one, and are imported
    where they are called.
    """

    # NumPy's numbers leave `number * schedule` to the schedule.
    __array_ufunc__ = None

    def __call__(self, step: Any) -> jax.Array:
        """The value in force for a step."""
        raise NotImplementedError

    def then(self, second: Schedule | _Callable, after: Any) -> Schedule:
        """This one for `after` steps, then another; see the function `then`."""
        from ._then import then

        return then(self, second, after)

    def shift(self, steps: Any) -> Schedule:
        """This one, `steps` later; see the function `shift`."""
        from ._shift import shift

        return shift(self, steps)

    def stretch(self, factor: Any) -> Schedule:
        """This one, taking `factor` times as long; see the function `stretch`."""
        from ._stretch import stretch

        return stretch(self, factor)

    def clip(self, min_value: Any = None, max_value: Any = None) -> Schedule:
        """This one within bounds; see the function `clip`."""
        from ._clip import clip

        return clip(self, min_value, max_value)

    def repeat(self, period: Any, mirror: bool = False) -> Schedule:
        """This one, over and over; see the function `repeat`."""
        from ._repeat import repeat

        return repeat(self, period, mirror)

    def __mul__(self, other: Any) -> Schedule:
        """The product with a schedule, or with a number."""
        from ._product import product
        from ._scale import scale

        if is_number(other):
            return scale(self, other)
        return product([self, other]) if callable(other) else NotImplemented

    def __rmul__(self, other: Any) -> Schedule:
        """A number, or a plain function of the step, times this one."""
        return self.__mul__(other)

    def __truediv__(self, other: Any) -> Schedule:
        """This one divided by a number."""
        if not is_number(other):
            return NotImplemented
        require_divisor("schedule", other)
        return self.__mul__(1 / other)

    def __neg__(self) -> Schedule:
        """This one with the other sign."""
        return self.__mul__(-1)

    def __add__(self, other: Any) -> Schedule:
        """The sum with a schedule, or with a number."""
        from ._constant import constant
        from ._sum import sum

        if is_number(other):
            return sum([self, constant(other)])
        return sum([self, other]) if callable(other) else NotImplemented

    def __radd__(self, other: Any) -> Schedule:
        """A number, or a plain function of the step, and this one."""
        return self.__add__(other)

    def __sub__(self, other: Any) -> Schedule:
        """The difference to a schedule, or to a number."""
        from ._scale import scale

        if is_number(other):
            return self.__add__(-other)
        return self.__add__(scale(other, -1)) if callable(other) else NotImplemented

    def __rsub__(self, other: Any) -> Schedule:
        """A number, or a plain function of the step, less this one."""
        return self.__neg__().__add__(other)
