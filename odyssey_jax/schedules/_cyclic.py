"""Up and down between two values, for ever."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from ._base import Schedule, builds
from ._callable import as_schedule
from ._check import (
    require_choice,
    require_finite,
    require_length,
    require_positive,
    require_sum,
)
from ._exponential import exponential
from ._linear import line
from ._moment import Moment, Phase, fold, length, phase, turns
from ._node import node
from ._numbers import between, is_integer, pair, real, whole_pair
from ._power import power

CyclicMode = Literal["triangular", "triangular2", "exp_range"]
AmplitudeOf = Literal["cycle", "step"]
_HIGHEST = 2.0**64


def _span(up: Any, down: Any) -> Any:
    """The length of a cycle; whole if both halves are."""
    if is_integer(up) and is_integer(down):
        return jnp.asarray(up, jnp.int32) + jnp.asarray(down, jnp.int32)
    return real(up) + real(down)


def _triangle(local: Moment, up: Any, down: Any) -> Phase:
    """How high on the triangle: `done` on the way up, and what is left on the way down."""
    rise, fall = phase(local, length(up)), phase(local.minus(length(up)), length(down))
    rising = rise.left > 0
    return Phase(jnp.where(rising, rise.done, fall.left), jnp.where(rising, rise.left, fall.done))


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cyclic(Schedule):
    """Triangles whose height may change; see `cyclic`."""

    base_value: Any
    peak_value: Any
    step_size_up: Any
    step_size_down: Any
    mode: str = dataclasses.field(metadata={"static": True})
    gamma: Any
    amplitude: Schedule | None
    amplitude_of: str = dataclasses.field(metadata={"static": True})

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        up = self.step_size_up
        down = up if self.step_size_down is None else self.step_size_down
        span = _span(up, down)
        height = self._height(now, turns(now, span).whole)
        top = self.peak_value
        if height is not None:
            top = between(self.base_value, self.peak_value, height, 1 - height)
        return line(_triangle(fold(now, span, mirror=False), up, down), self.base_value, top)

    def _height(self, now: Moment, cycle: jax.Array) -> jax.Array | None:
        """The peak of this cycle as a part of the first one's; None if it does not change."""
        if self.amplitude is not None:
            return self.amplitude.at(Moment(cycle) if self.amplitude_of == "cycle" else now)
        if self.mode == "triangular2":
            return power(pair(0.5), whole_pair(cycle))
        if self.mode == "exp_range":
            # Under a higher peak, neither values nor derivatives would be finite.
            return jnp.minimum(exponential(now, 1.0, 1, self.gamma), _HIGHEST)
        return None


@builds(Cyclic)
def cyclic(
    base_value: Any,
    peak_value: Any,
    step_size_up: Any,
    step_size_down: Any = None,
    mode: CyclicMode = "triangular",
    gamma: Any = 1.0,
    *,
    amplitude: Schedule | Callable[[Any], Any] | None = None,
    amplitude_of: AmplitudeOf = "cycle",
) -> Cyclic:
    r"""Rise from `base_value` to `peak_value` and fall back along straight lines, over and over.

    $$f(t) = v_0 + (v - v_0) \, a \cdot \begin{cases}
      u / n_1 & u \le n_1 \\ (n_1 + n_2 - u) / n_2 & u > n_1
    \end{cases} \qquad u = t \bmod (n_1 + n_2)$$

    In cycle $c = \lfloor t / (n_1 + n_2) \rfloor$ the amplitude $a$ is 1 (`"triangular"`),
    $2^{-c}$ (`"triangular2"`) or $\min(\gamma^t, 2^{64})$ (`"exp_range"`), or what `amplitude`
    says.

    There is no end. A warm-up before it is joined to it, and its steps count from the end of
    that warm-up. The momentum that goes with the rate is another one, with its own two values
    the other way round: `cyclic(0.95, 0.85, ...)` falls while the rate rises.

    Args:
        base_value: The value $v_0$ at the start of each cycle; scalar, finite.
        peak_value: The value $v$ at the peak of the first cycle; scalar, finite.
        step_size_up: Steps $n_1$ up; scalar, in [0, 2**31 - 1]. If 0, a cycle starts at its peak.
        step_size_down: Steps $n_2$ down; scalar, in [0, 2**31 - 1], or None for as many as up.
            If 0, the value falls back at once. Together they are in [1, 2**31 - 1].
        mode: How the amplitude changes: `"triangular"`, `"triangular2"` or `"exp_range"`.
        gamma: The factor $\gamma$ of `"exp_range"`; scalar, above 0.
        amplitude: The amplitude as a schedule of its own, in place of a mode.
        amplitude_of: What the amplitude's step counts: the `"cycle"`, from 0, or the `"step"`
            $t$.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range, or belongs to another mode.

    Source:
        Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.1;
        `torch.optim.lr_scheduler.CyclicLR`.

    Example:
        >>> from odyssey_jax.schedules import cyclic
        >>> schedule = cyclic(0.0, 0.8, step_size_up=4, step_size_down=8, mode="triangular2")
        >>> print(schedule(0), schedule(2), schedule(4), schedule(12), schedule(16))
        0.0 0.4 0.8 0.0 0.4
    """
    require_finite("base_value", base_value)
    require_finite("peak_value", peak_value)
    step_size_up = require_length("step_size_up", step_size_up)
    if step_size_down is not None:
        step_size_down = require_length("step_size_down", step_size_down)
    down = step_size_up if step_size_down is None else step_size_down
    require_sum("step_size_up", step_size_up, "step_size_down", down)
    require_choice("mode", mode, get_args(CyclicMode))
    require_positive("gamma", gamma)
    require_choice("amplitude_of", amplitude_of, get_args(AmplitudeOf))
    if amplitude is not None:
        amplitude = as_schedule("amplitude", amplitude)
    _require_one_amplitude(mode, gamma, amplitude, amplitude_of)
    return Cyclic(
        base_value,
        peak_value,
        step_size_up,
        step_size_down,
        mode,
        gamma,
        amplitude,
        amplitude_of,
    )


def _require_one_amplitude(mode: str, gamma: Any, amplitude: Any, amplitude_of: str) -> None:
    """Refuse what would be ignored."""
    if amplitude is not None and mode != "triangular":
        raise ValueError(
            f"amplitude takes the place of a mode: leave mode at 'triangular'; got mode = {mode!r}."
        )
    if amplitude is None and amplitude_of != "cycle":
        raise ValueError(
            f"amplitude_of says what an amplitude's step counts: give amplitude too; got "
            f"amplitude_of = {amplitude_of!r}."
        )
    if mode != "exp_range" and isinstance(gamma, (int, float)) and gamma != 1:
        raise ValueError(
            f"gamma belongs to mode = 'exp_range'; got gamma = {gamma!r}, mode = {mode!r}."
        )
