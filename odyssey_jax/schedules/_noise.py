"""Noise on any schedule: a function of a seed and the step, and so the same on every run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from ._base import Schedule, builds
from ._callable import as_schedule
from ._check import (
    is_known,
    require_choice,
    require_count,
    require_length,
    require_order,
    require_positive,
)
from ._moment import Moment, length
from ._node import node
from ._numbers import real

NoiseMode = Literal["multiplicative", "additive"]
# Named, as the generator that JAX takes by default is a setting.
_GENERATOR = "threefry2x32"


def _uniform(seed: jax.Array, step: jax.Array, limit: jax.Array) -> jax.Array:
    return limit * jax.random.uniform(_key(seed, step), (), jnp.float32, -1.0, 1.0)


def _normal(seed: jax.Array, step: jax.Array, limit: jax.Array, std: jax.Array) -> jax.Array:
    bound = limit / std
    return std * jax.random.truncated_normal(_key(seed, step), -bound, bound, (), jnp.float32)


def _key(seed: jax.Array, step: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed, impl=_GENERATOR), step)


def _for_each(draw: Callable[..., jax.Array], *numbers: Any) -> jax.Array:
    """One draw for each element of the numbers, whatever their shapes."""
    alike = jnp.broadcast_arrays(*numbers)
    return jax.vmap(draw)(*(x.reshape(-1) for x in alike)).reshape(alike[0].shape)


@node
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class WithNoise(Schedule):
    """A schedule and its noise; see `with_noise`."""

    schedule: Schedule
    limit: Any
    seed: Any
    noise_begin: Any
    noise_end: Any
    mode: str = dataclasses.field(metadata={"static": True})
    std: Any

    def at(self, now: Moment) -> jax.Array:
        """The formula."""
        value, noise = self.schedule.at(now), self._noise(now)
        noisy = value + (noise if self.mode == "additive" else value * noise)
        inside = now.reached(length(self.noise_begin))
        if self.noise_end is not None:
            inside = inside & ~now.reached(length(self.noise_end))
        return jnp.where(inside, noisy, value)

    def _noise(self, now: Moment) -> jax.Array:
        seed, limit = jnp.asarray(self.seed, jnp.int32), real(self.limit)
        if self.std is None:
            return _for_each(_uniform, seed, now.whole, limit)
        return _for_each(_normal, seed, now.whole, limit, real(self.std))


@builds(WithNoise)
def with_noise(
    schedule: Schedule | Callable[[Any], Any],
    limit: Any,
    seed: Any = 0,
    noise_begin: Any = 0,
    noise_end: Any = None,
    mode: NoiseMode = "multiplicative",
    *,
    std: Any = None,
) -> WithNoise:
    r"""Add noise to a schedule, in a range of steps.

    $$g(t) = f(t) \, (1 + \varepsilon_t) \quad\text{or}\quad f(t) + \varepsilon_t, \qquad
      |\varepsilon_t| \le c, \quad b \le t < e$$

    $\varepsilon_t$ is drawn from `jax.random.fold_in(jax.random.key(seed), t)`, uniformly, or
    from a normal distribution that is cut off at $\pm c$. It depends on the seed and the whole
    step alone: the same eager, compiled and batched, and after a resume. Outside the range it is
    the schedule itself. Steps count from the start of this schedule; a warm-up that is part of
    it is included.

    Args:
        schedule: The schedule $f$, or a plain function of the step.
        limit: The bound $c$ of the noise: a part of the value, in (0, 1], so that its sign
            stays; or with `mode="additive"` a value; scalar, above 0.
        seed: What another noise is got by; integer scalar, in [0, 2**31 - 1].
        noise_begin: The first step $b$ with noise; scalar, in [0, 2**31 - 1].
        noise_end: The first step $e$ without it again; scalar, in [noise_begin, 2**31 - 1], or
            None for never.
        mode: `"multiplicative"` or `"additive"`.
        std: The standard deviation of the normal distribution before it is cut off; scalar,
            above 0, or None for uniform noise.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        The noise of the schedulers of timm, with the same distributions; its numbers come
        from PyTorch's generator and are others.

    Example:
        >>> from odyssey_jax.schedules import constant, with_noise
        >>> schedule = with_noise(constant(0.1), limit=0.5, seed=3, noise_begin=10)
        >>> print(schedule(9), 0.05 <= float(schedule(10)) <= 0.15, schedule(10) == schedule(11))
        0.1 True False
    """
    inner = as_schedule("schedule", schedule)
    require_positive("limit", limit)
    seed = require_count("seed", seed)
    noise_begin = require_length("noise_begin", noise_begin)
    if noise_end is not None:
        noise_end = require_length("noise_end", noise_end)
        require_order("noise_begin", noise_begin, "noise_end", noise_end)
    require_choice("mode", mode, get_args(NoiseMode))
    if mode == "multiplicative":
        _require_sign_kept(limit)
    if std is not None:
        require_positive("std", std)
    return WithNoise(inner, limit, seed, noise_begin, noise_end, mode, std)


def _require_sign_kept(limit: Any) -> None:
    if is_known(limit) and jnp.any(jnp.asarray(limit) > 1):
        raise ValueError(
            "limit must be at most 1 in mode 'multiplicative', where more would make a rate "
            f"negative; got limit = {limit!r}."
        )
