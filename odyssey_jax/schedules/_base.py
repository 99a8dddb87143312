"""What every schedule is: a function of the step that is also a value."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from odyssey_jax._pytree import is_static
from odyssey_jax.schedules._fields import require_divisor
from odyssey_jax.schedules._numbers import Wide, canonical, exact, is_number
from odyssey_jax.schedules._parts import Part
from odyssey_jax.schedules._steps import StepCount, clamp_step
from odyssey_jax.schedules._units import Length, measures

FORMAT = "odyssey_jax.schedule"
FORMAT_VERSION = 1
_FACTORIES: dict[str, Callable[..., Schedule]] = {}


class Schedule:
    r"""A function of the step, `value = schedule(step)`, that is also a piece of data.

    A schedule is a frozen dataclass and a pytree. Its numbers (rates, lengths) are leaves, so
    one compiled program serves any of their values, and `jax.vmap` and `jax.grad` reach each of
    them; its choices (words, flags) are static. It compares by value, prints as the call that
    builds it, pickles, and has a JSON form.

    Steps count optimizer updates from 0. A step may be of any integer, unsigned or float dtype
    and any shape; below 0 it is 0, above $2^{31} - 1$ it is $2^{31} - 1$, and a fraction of a
    step is kept. The result is float32 (strongly typed, with or without x64) of the step's
    shape, within 1e-6 relative of the float64 formula.

    Example:
        >>> from odyssey_jax.schedules import Schedule, cosine_decay
        >>> schedule = cosine_decay(0.1, 100)
        >>> [round(float(schedule(t)), 4) for t in (0, 50, 100)]
        [0.1, 0.05, 0.0]
        >>> schedule
        cosine_decay(init_value=0.1, decay_steps=100)
        >>> Schedule.from_json(schedule.to_json()) == schedule
        True
    """

    name: ClassVar[str]
    """The public function that builds it: its name in `repr` and in JSON."""

    steady: ClassVar[bool] = False
    """Whether the value is the same at every step."""

    def at(self, now: StepCount) -> jax.Array:
        """Return the value at a step: the formula, elementwise over it and the hyper-parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no formula: define `at`.")

    def check(self) -> None:
        """Raise ValueError if hyper-parameters, each accepted by itself, don't fit each other."""

    def prepared(self) -> Schedule:
        """Return the schedule as the formulas see it, with numbers as `canonical` has them."""
        fields = {
            f.name: f.metadata.get("canonical", _prepared)(getattr(self, f.name))
            for f in _data_fields(self)
        }
        return dataclasses.replace(self, **fields)  # pyright: ignore[reportArgumentType]

    def __call__(self, step: Any) -> jax.Array:
        """Return the value in force for optimizer update `step`.

        Args:
            step: 0-based update; any real dtype, any shape.

        Returns:
            float32 of the step's shape.

        Raises:
            ValueError: If a hyper-parameter is an array: such a schedule is a batch of them.
            TypeError: If the step is not a real number.
        """
        return _evaluate(self._prepared_once(), clamp_step(step))

    def precise(self) -> Schedule:
        """Return the schedule as an argument of a jitted function: it keeps all of its digits.

        `jax.jit` makes a float32 of every Python float among its arguments, and 0.99999 rounded
        to float32 and raised to the 100,000th power is off by 0.1 %. Here a float is two float32
        leaves, which hold 48 bits. Nothing is lost without this where a schedule is closed over,
        as in `optax.adamw(schedule)`; `fit` does it by itself.

        Returns:
            A schedule of as many digits, with other leaves.

        Example:
            >>> import jax
            >>> from odyssey_jax.schedules import exponential_decay
            >>> schedule = exponential_decay(1.0, 1, 0.99999)
            >>> run = jax.jit(lambda schedule: schedule(100_000))
            >>> print(f"{run(schedule):.5f} {run(schedule.precise()):.5f} {0.99999**100_000:.5f}")
            0.36738 0.36788 0.36788
        """
        return jax.tree.map(canonical, self, is_leaf=lambda x: isinstance(x, Wide))

    def _prepared_once(self) -> Schedule:
        kept = self.__dict__.get("_kept")
        if kept is None:
            self._require_scalars()
            kept = self.prepared()
            # Never keep what was made while tracing: it would outlive the trace.
            if not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(kept)):
                object.__setattr__(self, "_kept", kept)
        return kept

    def _require_scalars(self) -> None:
        for path, leaf in jax.tree_util.tree_flatten_with_path(self)[0]:
            if np.ndim(leaf) > 0:
                where = jax.tree_util.keystr(path).lstrip(".")
                raise ValueError(
                    f"{where} has shape {np.shape(leaf)}: this is a batch of schedules. "
                    "Evaluate it with jax.vmap(lambda s: s(step))(schedule)."
                )

    def __getstate__(self) -> dict[str, Any]:
        return {name: x for name, x in self.__dict__.items() if name != "_kept"}

    def parts(self) -> list[Part]:
        """Return the parts of the schedule, in order, each with the steps in which it is in force.

        `describe`, `survey` and `lint` go by them. A schedule of your own is one part without an
        end, unless it defines this method.

        Returns:
            At least one part; the first begins at 0, each of the others where one stops. The
            numbers of the schedule must be known.

        Example:
            >>> from odyssey_jax.schedules import warmup_cosine
            >>> [(part.kind, part.start, part.end) for part in warmup_cosine(0.1, 10, 100).parts()]
            [('linear_warmup', 0.0, 10.0), ('cosine_decay', 10.0, 100.0)]
        """
        return [Part(self.name)]

    def resolve(
        self, *, steps_per_epoch: Any = None, tokens_per_step: Any = None, total_steps: Any = None
    ) -> Schedule:
        """Return the schedule in steps, if it was written with `epochs`, `tokens` or `fraction`.

        Each length is rounded to the nearest whole step (of two, the even one), by itself. A
        unit of which nothing is said here stays as it is, for another call. A schedule in steps
        is returned as it is.

        Args:
            steps_per_epoch: Optimizer updates in an epoch; in [1e-6, 2**31 - 1].
            tokens_per_step: Tokens in an update; in [1e-6, 2**31 - 1].
            total_steps: Updates in the run; in [1, 2**31 - 1].

        Returns:
            A schedule.

        Raises:
            ValueError: If an argument, or a length in steps, is outside its range.

        Example:
            >>> from odyssey_jax.schedules import epochs, fraction, warmup_cosine
            >>> schedule = warmup_cosine(0.1, epochs(2), fraction(1))
            >>> schedule
            warmup_cosine(peak_value=0.1, warmup_steps=epochs(2), total_steps=fraction(1))
            >>> schedule = schedule.resolve(steps_per_epoch=50, total_steps=1_000)
            >>> [round(float(schedule(t)), 4) for t in (50, 100, 1_000)]
            [0.05, 0.1, 0.0]
        """
        measures(steps_per_epoch, tokens_per_step, total_steps)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as plain data: dicts, lists, numbers and strings, ready for JSON."""
        fields = {f.name: plain(getattr(self, f.name)) for f in _fields(self)}
        return {"name": self.name, **fields}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Schedule:
        """Build a schedule from what `to_dict` returned.

        Raises:
            ValueError: If there is no schedule of that name, or an argument is not accepted.
        """
        arguments = {key: _from_plain(x) for key, x in data.items() if key != "name"}
        name = data.get("name")
        if name not in _FACTORIES:
            known = ", ".join(sorted(_FACTORIES))
            raise ValueError(f"There is no schedule named {name!r}; there are: {known}.")
        try:
            inspect.signature(_FACTORIES[name]).bind(**arguments)
        except TypeError as error:
            raise ValueError(f"Cannot build {name} from {arguments}: {error}.") from error
        return _FACTORIES[name](**arguments)

    def to_json(self) -> str:
        """Return the schedule as JSON text with the version of its form, compositions included."""
        form = {"format": FORMAT, "version": FORMAT_VERSION, "schedule": self.to_dict()}
        return json.dumps(form, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Schedule:
        """Build a schedule from its JSON text.

        Raises:
            ValueError: If the text is not a schedule's, or its version is newer than this
                library.
        """
        form = json.loads(text)
        if not isinstance(form, dict) or form.get("format") != FORMAT:
            raise ValueError(f"This JSON is not a schedule (format {FORMAT!r}): {text[:80]!r}.")
        if form.get("version") != FORMAT_VERSION:
            raise ValueError(
                f"This schedule was written in version {form.get('version')!r} of its form; this "
                f"library reads version {FORMAT_VERSION}. Use the library that wrote it."
            )
        return Schedule.from_dict(form["schedule"])

    # NumPy's numbers leave `number * schedule` to the schedule.
    __array_ufunc__ = None

    # Compositions are schedules too, built on this class: they are looked up by their names.

    def then(self, second: Schedule | Callable[[Any], Any], after: Any) -> Schedule:
        """Follow this schedule for `after` steps, then another; see the function `then`."""
        return factory("then")(self, second, after)

    def shift(self, steps: Any) -> Schedule:
        """Start this schedule `steps` later; see the function `shift`."""
        return factory("shift")(self, steps)

    def stretch(self, factor: Any) -> Schedule:
        """Let this schedule take `factor` times as long; see the function `stretch`."""
        return factory("stretch")(self, factor)

    def clip(self, min_value: Any = None, max_value: Any = None) -> Schedule:
        """Keep this schedule within bounds; see the function `clip`."""
        return factory("clip")(self, min_value, max_value)

    def repeat(self, period: Any, mirror: bool = False) -> Schedule:
        """Begin this schedule again every `period` steps; see the function `repeat`."""
        return factory("repeat")(self, period, mirror)

    def __mul__(self, other: Any) -> Schedule:
        if is_number(other):
            return factory("scale")(self, other)
        return factory("product")([self, other]) if callable(other) else NotImplemented

    def __rmul__(self, other: Any) -> Schedule:
        return self.__mul__(other)

    def __truediv__(self, other: Any) -> Schedule:
        if not is_number(other):
            return NotImplemented
        require_divisor("schedule", other)
        return self.__mul__(1 / other)

    def __neg__(self) -> Schedule:
        return self.__mul__(-1)

    def __add__(self, other: Any) -> Schedule:
        if is_number(other):
            other = factory("constant")(other)
        return factory("sum")([self, other]) if callable(other) else NotImplemented

    def __radd__(self, other: Any) -> Schedule:
        return self.__add__(other)

    def __sub__(self, other: Any) -> Schedule:
        if is_number(other):
            return self.__add__(-other)
        return self.__add__(factory("scale")(other, -1)) if callable(other) else NotImplemented

    def __rsub__(self, other: Any) -> Schedule:
        return self.__neg__().__add__(other)

    def __repr__(self) -> str:
        given = []
        for name, parameter in inspect.signature(_FACTORIES[self.name]).parameters.items():
            text = shown(getattr(self, name))
            if text != shown(parameter.default):
                given.append(f"{name}={text}")
        return f"{self.name}({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in _fields(self))

    def __hash__(self) -> int:
        # Of the structure alone: JAX hashes the functions it is given, and a schedule may then
        # hold arrays, or values being traced, which have no hash.
        return hash(jax.tree.structure(self))


def factory(name: str) -> Callable[..., Schedule]:
    """Return the public function of a name."""
    return _FACTORIES[name]


@jax.jit
def _evaluate(schedule: Schedule, now: StepCount) -> jax.Array:
    value = jax.lax.convert_element_type(schedule.at(now), jnp.float32)
    if schedule.steady:
        return jnp.broadcast_to(value, now.whole.shape)
    # A division by 1, which XLA can't see is one. It changes nothing, but XLA repeats cheap
    # operations, a sine among them, for every element of every array that the value scales,
    # where an optimizer is compiled for the CPU; never what is below a division.
    one = (now.whole != -1).astype(jnp.float32)
    return jnp.broadcast_to(value, now.whole.shape) / one


def _fields(schedule: Schedule) -> tuple[Any, ...]:
    return dataclasses.fields(schedule)  # pyright: ignore[reportArgumentType]


def _data_fields(schedule: Schedule) -> list[Any]:
    return [f for f in _fields(schedule) if not is_static(f)]


def _prepared(x: Any) -> Any:
    if isinstance(x, Schedule):
        return x.prepared()
    if isinstance(x, Wide) or x is None:
        return x
    return tuple(map(_prepared, x)) if isinstance(x, tuple) else canonical(x)


def plain(x: Any) -> Any:
    """Return an argument as plain data."""
    if isinstance(x, Schedule):
        return x.to_dict()
    if isinstance(x, Length):
        return x.to_plain()
    if isinstance(x, Wide):
        return plain(exact(x))
    if isinstance(x, tuple):
        return [plain(item) for item in x]
    if isinstance(x, (jax.Array, np.ndarray, np.generic)):
        return np.asarray(x).tolist() if np.ndim(x) == 0 else {"array": np.asarray(x).tolist()}
    return x


def _from_plain(x: Any) -> Any:
    if isinstance(x, Mapping) and "length" in x:
        return Length.from_plain(x)
    if isinstance(x, Mapping):
        return np.asarray(x["array"]) if "array" in x else Schedule.from_dict(x)
    return [_from_plain(item) for item in x] if isinstance(x, list) else x


def shown(x: Any) -> str:
    """Return an argument as it is written in a call."""
    if isinstance(x, Tracer):
        return f"<traced {x.aval.str_short()}>"
    if isinstance(x, Wide):
        return shown(x.high if isinstance(x.high, Tracer) else exact(x))
    if isinstance(x, (jax.Array, np.ndarray, np.generic)):
        if np.ndim(x) == 0:
            return repr(np.asarray(x).item())
        return f"np.array({np.asarray(x).tolist()})"
    if isinstance(x, (tuple, list)):
        return f"[{', '.join(map(shown, x))}]"
    return repr(x)


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if any(isinstance(x, Tracer) for x in (a, b)):
        return False
    if any(isinstance(x, (jax.Array, np.ndarray)) for x in (a, b)):
        return bool(np.array_equal(np.asarray(a), np.asarray(b)))
    return bool(a == b)
