"""Schedules combined by value: products, sums, multiples, bounds, noise, a momentum."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import Schedule
from odyssey_jax.schedules._builds import as_schedule, as_schedules, builds
from odyssey_jax.schedules._fields import (
    FINITE,
    POSITIVE,
    STEPS,
    checked,
    choice,
    count,
    field,
    is_known,
    require_order,
    require_part,
)
from odyssey_jax.schedules._numbers import real
from odyssey_jax.schedules._parts import Part, known_steps, last_end, limited
from odyssey_jax.schedules._steps import StepCount, step_count
from odyssey_jax.schedules._units import Steps


@node
class Combined(Schedule):
    """Schedules that are in force together."""

    schedules: tuple[Schedule, ...] = field(as_schedules)

    def parts(self) -> list[Part]:
        """Return one part, which comes to rest with the last of the schedules."""
        ends = [last_end(schedule.parts()) for schedule in self.schedules]
        known = [end for end in ends if end is not None]
        return [Part(self.name, end=max(known) if len(known) == len(ends) else None)]


class _Changed(Schedule):
    """A schedule whose values are changed, and whose parts are not."""

    schedule: Schedule

    def parts(self) -> list[Part]:
        """Return the parts of the schedule within."""
        return self.schedule.parts()


@node
class Product(Combined):
    """Factors; see `product`."""

    def at(self, now: StepCount) -> jax.Array:
        """Return the product of the values."""
        return functools.reduce(operator.mul, (each.at(now) for each in self.schedules))


@builds(Product)
def product(schedules: Sequence[Schedule | Callable[[Any], Any]]) -> Product:
    r"""Multiply schedules, each at the same step.

    $$f(t) = \prod_i f_i(t)$$

    `a * b` is the same for two. A decay from 1 to 0 times any schedule is that schedule, decayed.

    Args:
        schedules: The factors, at least one: schedules, or plain functions of the step (see
            `from_callable`).

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If there is no factor, or one is not a schedule.

    Source:
        `torch.optim.lr_scheduler.ChainedScheduler`, whose schedulers each multiply the rate.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, product, step_decay
        >>> schedule = product([cosine_decay(1.0, 100), step_decay(0.1, 50, 0.5)])
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100)]
        [0.1, 0.025, 0.0]
    """
    return checked(Product, locals())


@node
class Sum(Combined):
    """Terms; see `sum`."""

    def at(self, now: StepCount) -> jax.Array:
        """Return the sum of the values."""
        return functools.reduce(operator.add, (each.at(now) for each in self.schedules))


@builds(Sum)
def sum(schedules: Sequence[Schedule | Callable[[Any], Any]]) -> Sum:
    r"""Add schedules, each at the same step.

    $$f(t) = \sum_i f_i(t)$$

    `a + b` is the same for two, and `a - b` for their difference. Where terms cancel, the error
    is that of the terms: 1e-6 of the greatest of them.

    Args:
        schedules: The terms, at least one: schedules, or plain functions of the step (see
            `from_callable`).

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If there is no term, or one is not a schedule.

    Source:
        Pointwise addition.

    Example:
        >>> from odyssey_jax.schedules import constant, cosine_decay, sum
        >>> schedule = sum([cosine_decay(0.1, 100), constant(0.02)])
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100)]
        [0.12, 0.07, 0.02]
    """
    return checked(Sum, locals())


@node
class Scale(_Changed):
    """A multiple; see `scale`."""

    schedule: Schedule = field(as_schedule)
    factor: Any = field(FINITE)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        return real(self.factor) * self.schedule.at(now)


@builds(Scale)
def scale(schedule: Schedule | Callable[[Any], Any], factor: ArrayLike) -> Scale:
    r"""Multiply a schedule by a number.

    $$g(t) = c \, f(t)$$

    `factor * schedule` is the same.

    Args:
        schedule: The schedule $f$, or a plain function of the step.
        factor: The number $c$; scalar, finite.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.1: a rate in proportion
        to the batch.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, scale
        >>> schedule = scale(cosine_decay(0.1, 100), 8)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100)]
        [0.8, 0.4, 0.0]
    """
    return checked(Scale, locals())


@node
class Clip(_Changed):
    """Bounds; see `clip`."""

    schedule: Schedule = field(as_schedule)
    min_value: Any = field(FINITE, optional=True)
    max_value: Any = field(FINITE, optional=True)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        value = self.schedule.at(now)
        if self.max_value is not None:
            bound = real(self.max_value)
            value = jnp.where(value > bound, bound, value)
        if self.min_value is not None:
            bound = real(self.min_value)
            value = jnp.where(value < bound, bound, value)
        return value

    def check(self) -> None:
        """Raise ValueError unless there is a bound, or two in order."""
        if self.min_value is None and self.max_value is None:
            raise ValueError("clip needs min_value, max_value or both; got neither.")
        if self.min_value is not None and self.max_value is not None:
            require_order("min_value", self.min_value, "max_value", self.max_value)


@builds(Clip)
def clip(
    schedule: Schedule | Callable[[Any], Any],
    min_value: ArrayLike | None = None,
    max_value: ArrayLike | None = None,
) -> Clip:
    r"""Keep a schedule within bounds.

    $$g(t) = \max(v_{min}, \min(v_{max}, f(t)))$$

    The derivative with respect to a bound is 1 where the bound is in force.

    Args:
        schedule: The schedule $f$, or a plain function of the step.
        min_value: The lower bound; scalar, finite, or None for none.
        max_value: The upper bound; scalar, finite, at least `min_value`, or None for none.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If there is no bound at all, or an argument is outside its range.

    Source:
        `jax.numpy.clip`.

    Example:
        >>> from odyssey_jax.schedules import clip, step_decay
        >>> schedule = clip(step_decay(0.1, 30, 0.5), min_value=0.02)
        >>> [round(float(schedule(t)), 4) for t in (0, 30, 60, 90)]
        [0.1, 0.05, 0.025, 0.02]
    """
    return checked(Clip, locals())


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
    """Return one draw for each element of the numbers, whatever their shapes."""
    alike = jnp.broadcast_arrays(*numbers)
    return jax.vmap(draw)(*(x.reshape(-1) for x in alike)).reshape(alike[0].shape)


@node
class WithNoise(Schedule):
    """A schedule and its noise; see `with_noise`."""

    schedule: Schedule = field(as_schedule)
    limit: Any = field(POSITIVE)
    seed: Any = field(count())
    noise_begin: Any = field(STEPS)
    noise_end: Any = field(STEPS, optional=True)
    mode: str = choice(NoiseMode)
    std: Any = field(POSITIVE, optional=True)

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula."""
        value, noise = self.schedule.at(now), self._noise(now)
        noisy = value + (noise if self.mode == "additive" else value * noise)
        inside = now.reached(step_count(self.noise_begin))
        if self.noise_end is not None:
            inside = inside & ~now.reached(step_count(self.noise_end))
        return jnp.where(inside, noisy, value)

    def check(self) -> None:
        """Raise ValueError if the range is empty, or the noise could turn the sign."""
        if self.noise_end is not None:
            require_part("noise_begin", self.noise_begin, "noise_end", self.noise_end)
        known = self.mode == "multiplicative" and is_known(self.limit)
        if known and np.any(np.asarray(self.limit) > 1):
            raise ValueError(
                "limit must be at most 1 in mode 'multiplicative', where more would make a rate "
                f"negative; got limit = {self.limit!r}."
            )

    def parts(self) -> list[Part]:
        """Return the parts of the schedule, those with noise by themselves."""
        found, begin = self.schedule.parts(), known_steps(self.noise_begin)
        stop = None if self.noise_end is None else known_steps(self.noise_end)
        noisy = [
            part._replace(kind=f"with_noise({part.kind})", end=self._quiet_from(part))
            for part in limited(found, begin, stop)
        ]
        after = [] if stop is None else limited(found, stop, None)
        return [*limited(found, 0, begin), *noisy, *after]

    def _quiet_from(self, part: Part) -> float | None:
        """Return where a part rests in spite of the noise: at 0, of which any multiple is 0."""
        rests = part.rests and self.mode == "multiplicative"
        return part.end if rests and self.schedule(np.float64(part.end)) == 0 else None

    def _noise(self, now: StepCount) -> jax.Array:
        seed, limit = jnp.asarray(self.seed, jnp.int32), real(self.limit)
        if self.std is None:
            return _for_each(_uniform, seed, now.whole, limit)
        return _for_each(_normal, seed, now.whole, limit, real(self.std))


@builds(WithNoise)
def with_noise(
    schedule: Schedule | Callable[[Any], Any],
    limit: ArrayLike,
    seed: ArrayLike = 0,
    noise_begin: Steps = 0,
    noise_end: ArrayLike | None = None,
    mode: NoiseMode = "multiplicative",
    *,
    std: ArrayLike | None = None,
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
    return checked(WithNoise, locals())


@node
class WithMomentum(_Changed):
    """A rate that knows its momentum; see `with_momentum`.

    Attributes:
        schedule: The rate.
        momentum: The momentum, a schedule of its own.
    """

    schedule: Schedule = field(as_schedule)
    momentum: Schedule = field(as_schedule)

    def at(self, now: StepCount) -> jax.Array:
        """Return the rate."""
        return self.schedule.at(now)


@builds(WithMomentum)
def with_momentum(
    schedule: Schedule | Callable[[Any], Any], momentum: Schedule | Callable[[Any], Any]
) -> WithMomentum:
    """Keep a rate and the momentum that goes with it together.

    It is the rate, and has the momentum as `.momentum`: two schedules that are written, saved and
    compared as one.

    Args:
        schedule: The rate, or a plain function of the step.
        momentum: The momentum, or a plain function of the step.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If one of the two is not a schedule.

    Source:
        Smith, "A disciplined approach to neural network hyper-parameters" (2018), section 4.2;
        `torch.optim.lr_scheduler.OneCycleLR` with `cycle_momentum`.

    Example:
        >>> import optax
        >>> from odyssey_jax.schedules import cyclic, with_momentum
        >>> rate = with_momentum(cyclic(0.01, 0.1, 50), cyclic(0.95, 0.85, 50))
        >>> print(rate(50), rate.momentum(50))
        0.1 0.85
        >>> optimizer = optax.inject_hyperparams(optax.sgd)(rate, momentum=rate.momentum)
    """
    return checked(WithMomentum, locals())
