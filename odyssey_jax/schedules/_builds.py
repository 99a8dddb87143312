"""How schedules are built: public functions, plain functions, and calls that wait for units."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._pytree import node
from odyssey_jax.schedules._base import _FACTORIES, Schedule, factory, plain, shown
from odyssey_jax.schedules._fields import checked, field
from odyssey_jax.schedules._steps import StepCount
from odyssey_jax.schedules._units import WAITS_FOR, Length, measures

_Factory = TypeVar("_Factory", bound=Callable[..., Schedule])


def builds(kind: type[Schedule]) -> Callable[[_Factory], _Factory]:
    r"""Mark the public function that builds a kind of schedule, named like its fields.

    The kind then has the function's name in `repr` and in JSON, and its lengths may be in any
    unit. A schedule of your own is a `node` with its formula, and such a function.

    Args:
        kind: The class, whose fields are the arguments of the function.

    Returns:
        A decorator.

    Example:
        >>> from typing import Any
        >>> from odyssey_jax.schedules import Schedule, StepCount, builds, fraction, node, real
        >>> @node
        ... class Parabola(Schedule):
        ...     init_value: Any
        ...     steps: Any
        ...
        ...     def at(self, now: StepCount):
        ...         left = now.phase(self.steps).left  # 1 at step 0, 0 at the end
        ...         return real(self.init_value) * left * left
        >>> @builds(Parabola)
        ... def parabola(init_value: Any, steps: Any) -> Parabola:
        ...     return Parabola(init_value, steps)
        >>> schedule = 0.5 * parabola(0.4, fraction(0.1))
        >>> schedule.resolve(total_steps=1_000)
        scale(schedule=parabola(init_value=0.4, steps=100), factor=0.5)
        >>> print(schedule.resolve(total_steps=1_000)(50))
        0.05
    """

    def register(function: _Factory) -> _Factory:
        kind.name = function.__name__
        return recipe(function)

    return register


def recipe(function: _Factory) -> _Factory:
    """Mark a public function that returns a schedule, so that its lengths may be in any unit.

    Where one is not in steps, the call is kept as it is until `Schedule.resolve`.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def build(*args: Any, **kwargs: Any) -> Schedule:
        if not is_unresolved((args, kwargs)):
            return function(*args, **kwargs)
        return unresolved(function, signature.bind(*args, **kwargs).arguments)

    _FACTORIES[function.__name__] = build
    return build  # pyright: ignore[reportReturnType]


@node
class Unresolved(Schedule):
    """The public function to call, and its arguments; see `Schedule.resolve`.

    Attributes:
        call: The name of the function.
        values: The arguments that hold numbers, lengths and schedules, by `names`.
        choices: The others, each with its name.
    """

    call: str = dataclasses.field(metadata={"static": True})
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    values: tuple[Any, ...]
    choices: tuple[tuple[str, Any], ...] = dataclasses.field(metadata={"static": True})

    def at(self, now: StepCount) -> NoReturn:
        """Raise ValueError: there is no value before the lengths are known."""
        del now
        lengths = [x for x in _parts(self) if isinstance(x, Length)]
        waiting = {unit for x in lengths for unit in x.units if unit != "steps"}
        words = ", ".join(f"{name}=..." for unit, name in WAITS_FOR.items() if unit in waiting)
        raise ValueError(
            f"This schedule is written in {', '.join(sorted(waiting))}, and has no values before "
            f"they are steps: use schedule.resolve({words}); got {self!r}."
        )

    def prepared(self) -> NoReturn:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Raise ValueError, as `at` does."""
        self.at(StepCount(jnp.int32(0)))

    def parts(self) -> NoReturn:
        """Raise ValueError, as `at` does."""
        self.prepared()

    def _arguments(self) -> dict[str, Any]:
        """Return all arguments, in the order of the function's signature."""
        given = {**dict(zip(self.names, self.values, strict=True)), **dict(self.choices)}
        order = inspect.signature(factory(self.call)).parameters
        return {name: given[name] for name in order if name in given}

    def resolve(
        self, *, steps_per_epoch: Any = None, tokens_per_step: Any = None, total_steps: Any = None
    ) -> Schedule:
        """Return the schedule in steps; see `Schedule.resolve`."""
        known = measures(steps_per_epoch, tokens_per_step, total_steps)
        return self.filled(lambda length: length.resolve(known))

    def filled(self, fill: Callable[[Length], Any]) -> Schedule:
        """Return the call made, with something in place of each length."""
        given = {name: _filled(x, fill) for name, x in self._arguments().items()}
        return factory(self.call)(**given)

    def to_dict(self) -> dict[str, Any]:
        """Return the call as plain data."""
        return {"name": self.call, **{name: plain(x) for name, x in self._arguments().items()}}

    def __repr__(self) -> str:
        given = [f"{name}={shown(x)}" for name, x in self._arguments().items()]
        return f"{self.call}({', '.join(given)})"


def _parts(x: Any) -> list[Any]:
    """Return an argument's numbers, lengths and schedules; an unresolved schedule's own too."""
    parts = []
    for part in jax.tree.leaves(x, is_leaf=lambda y: y is not x and _is_part(y)):
        parts += _parts(part.values) if isinstance(part, Unresolved) else [part]
    return parts


def _is_part(x: Any) -> bool:
    return isinstance(x, (Length, Schedule))


def _filled(x: Any, fill: Callable[[Length], Any]) -> Any:
    """Return an argument with something in place of each length, also of schedules within."""

    def one(part: Any) -> Any:
        if isinstance(part, Length):
            return fill(part)
        return part.filled(fill) if isinstance(part, Unresolved) else part

    return jax.tree.map(one, x, is_leaf=_is_part)


def is_unresolved(arguments: Any) -> bool:
    """Return whether there is a length in another unit than steps among the arguments of a call."""
    parts = jax.tree.leaves(arguments, is_leaf=_is_part)
    return any(isinstance(part, (Length, Unresolved)) for part in parts)


def unresolved(function: Callable[..., Schedule], arguments: Mapping[str, Any]) -> Unresolved:
    """Keep a call until its lengths are known; what is known is checked now."""
    _check(function, arguments)
    choices = {name: x for name, x in arguments.items() if x is None or isinstance(x, (str, bool))}
    values = {name: _frozen(x) for name, x in arguments.items() if name not in choices}
    return Unresolved(
        function.__name__, tuple(values), tuple(values.values()), tuple(choices.items())
    )


def _frozen(x: Any) -> Any:
    """Return an argument as a value: sequences as tuples, plain functions as schedules."""
    if isinstance(x, (list, tuple)):
        return tuple(map(_frozen, x))
    return FromCallable(x) if callable(x) and not isinstance(x, Schedule) else x


def _check(function: Callable[..., Schedule], arguments: Mapping[str, Any]) -> None:
    """Call a function with lengths that are traced, of which nothing is checked."""

    def trial(step: jax.Array) -> None:
        function(**{name: _filled(x, lambda _: step) for name, x in arguments.items()})

    # One that must know its length is checked when it does.
    with contextlib.suppress(jax.errors.JAXTypeError):
        jax.eval_shape(trial, jax.ShapeDtypeStruct((), jnp.int32))


def _require_callable(name: str, value: Any) -> Callable[[Any], Any]:
    if not callable(value):
        raise ValueError(
            f"{name} must be a callable from a step to a value (to build a schedule that was "
            f"one, give the function itself); got {name} = {value!r}."
        )
    return value


@node
class FromCallable(Schedule):
    """A function that is static; see `from_callable`."""

    function: Callable[[Any], Any] = field(_require_callable, static=True)

    def at(self, now: StepCount) -> jax.Array:
        """Return what the function returns for the step."""
        step = now.whole if now.part is None else now.real()
        return jnp.asarray(self.function(step)).astype(jnp.float32)

    def to_dict(self) -> dict[str, Any]:
        """Name the function: enough to see that another one differs, not to build it again."""
        return {"name": self.name, "function": named(self.function)}


def named(function: Callable[[Any], Any]) -> str:
    """Return a function by where it was defined."""
    where = getattr(function, "__module__", "?")
    return f"{where}.{getattr(function, '__qualname__', repr(function))}"


@builds(FromCallable)
def from_callable(function: Callable[[Any], Any]) -> FromCallable:
    """Take a plain function of the step, such as an Optax schedule, as a schedule.

    The function gets a step that is never negative, int32 (float32 if steps are fractional),
    and its result is taken as float32. Everything else is its own: it is static, so each
    function is a compilation, its numbers are not leaves, it compares by identity, and its JSON
    form names it without being able to build it. `join` and the other compositions do this by
    themselves.

    Args:
        function: Step to a real number, of the step's shape or a scalar.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If it is not callable.

    Example:
        >>> import optax
        >>> from odyssey_jax.schedules import from_callable
        >>> print(from_callable(optax.linear_schedule(1.0, 0.0, 10))(5))
        0.5
    """
    return checked(FromCallable, locals())


def as_schedule(name: str, x: Any) -> Schedule:
    """Return a schedule as it is, another callable taken in."""
    if isinstance(x, Schedule):
        return x
    if callable(x):
        return FromCallable(x)
    raise ValueError(
        f"{name} must be a schedule, or a function of the step; got {name} = {x!r}. "
        "A number is a schedule as constant(number)."
    )


def as_schedules(name: str, xs: Any) -> tuple[Schedule, ...]:
    """Return a sequence of at least one, each taken in as `as_schedule` does."""
    if not isinstance(xs, Sequence) or isinstance(xs, str) or len(xs) == 0:
        raise ValueError(
            f"{name} must be a sequence of at least one schedule; got {name} = {xs!r}."
        )
    return tuple(as_schedule(f"{name}[{i}]", x) for i, x in enumerate(xs))


@node
class FromPython(FromCallable):
    """A function that is static, and stays outside the compiled program; see `from_python`."""

    def at(self, now: StepCount) -> jax.Array:
        """Return what the function returns for each step."""
        shape = jax.ShapeDtypeStruct(now.whole.shape, jnp.float32)
        parts = () if now.part is None else (jax.lax.stop_gradient(now.part),)
        return jax.pure_callback(self._values, shape, now.whole, *parts, vmap_method="expand_dims")

    def _values(self, whole: Any, part: Any = 0.0) -> np.ndarray:
        whole, part = np.broadcast_arrays(np.asarray(whole), np.asarray(part))
        steps = zip(whole.ravel().tolist(), part.ravel().tolist(), strict=True)
        values = [float(self.function(n + x if x else n)) for n, x in steps]
        return np.asarray(values, np.float32).reshape(whole.shape)


@builds(FromPython)
def from_python(function: Callable[[Any], Any]) -> FromPython:
    """Take a plain Python function of the step as a schedule, by calling it on the host.

    The function gets a Python number, the step (an int where it is whole), and may do with it
    what JAX can't trace: `if`, `float`, `math.exp`, integers of any size. It is called each time
    a compiled program gets to it, which costs about as much as a hundred small operations and
    keeps the program from running ahead; `from_callable` is for functions that JAX traces, at no
    such cost. It has to give the same value for the same step every time. It has no derivative
    for the step, compares by identity, and its JSON form names it without being able to build it.

    Args:
        function: A Python number to a real number.

    Returns:
        A schedule: step to float32.

    Raises:
        ValueError: If it is not callable.

    Source:
        `torch.optim.lr_scheduler.LambdaLR`, whose functions are such.

    Example:
        >>> from odyssey_jax.schedules import from_python
        >>> schedule = from_python(lambda step: 0.5 if step < 10 else 2.0 ** -step)
        >>> print(schedule(9), schedule(10))
        0.5 0.0009765625
    """
    return checked(FromPython, locals())
