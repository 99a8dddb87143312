"""Compiled programs, which die with the functions that they were made of."""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax

from odyssey_jax.train._user_functions import ByValue, hashable

_KEPT = 32  # programs of living functions; the one that was used the longest ago is dropped


class Programs:
    """The jitted functions of all loops that are equal, none of which they keep alive.

    JAX's caches go by the function that is jitted, and end with it. So these have functions of
    their own, that refer to a loop weakly; and they end when one of the functions that the loops
    were made of does, such as a fresh lambda, since no equal loop can come then.
    """

    def __init__(self) -> None:
        self._jitted: dict[Callable[..., Any], Any] = {}
        self._known: dict[Any, Any] = {}

    @classmethod
    def of(cls, loop: ByValue) -> Programs:
        """Return the programs of the loops that are equal to this one."""

        def drop(_: Any, found=_found, is_over=sys.is_finalizing) -> None:
            if not is_over():  # when the modules are gone, a part can't be compared
                found.pop(key, None)

        key = _weak(loop, drop)
        _found[key] = programs = _found.pop(key, None) or cls()  # the newest is the last
        while len(_found) > _KEPT:
            _found.pop(next(iter(_found)), None)
        return programs

    def jitted(self, function: Callable[..., Any], **options: Any) -> Any:
        """Return a function of a loop, jitted as a function of its `Caller`."""
        if function not in self._jitted:

            @functools.wraps(function)
            def of_caller(caller: Caller, *args: Any) -> Any:
                return function(caller.loop(), *args)

            self._jitted[function] = jax.jit(of_caller, **options)
        return self._jitted[function]

    def once(self, form: Any, find: Callable[[], Any]) -> Any:
        """Return what is found by tracing for arrays of a form; traced once for each."""
        if form not in self._known:
            self._known[form] = find()
        return self._known[form]


_found: dict[Any, Programs] = {}


class Caller:
    """The loop that calls one of its `Programs`, as a static argument: all of them are equal."""

    def __init__(self, loop: Any):
        self.loop = weakref.ref(loop)

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Caller)


class Compiled:
    """A function of a loop and of arrays, jitted: see `compiled`."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]):
        functools.update_wrapper(self, function)
        self._function, self._options = function, options

    def __call__(self, loop: Any, *args: Any) -> Any:
        """Call it."""
        with loop.placement.context():
            return loop.programs.jitted(self._function, **self._options)(Caller(loop), *args)

    def jaxpr(self, loop: Any, *args: Any) -> Any:
        """Return what it was traced to, when it was called with arrays of this form."""
        with loop.placement.context(), jax.disable_jit(False):
            jitted = loop.programs.jitted(self._function, **self._options)
            return jitted.trace(Caller(loop), *args).jaxpr


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Jit a function of a loop and of arrays: equal loops share a program.

    Args:
        **options: As for `jax.jit`, where the loop is argument 0 and among `static_argnums`.

    Returns:
        A decorator.
    """
    return lambda function: Compiled(function, options)


def _weak(value: Any, gone: Callable[[Any], None]) -> Any:
    """Return a key that compares as a value does, and keeps none of its functions alive.

    Args:
        value: A loop, or a part of one.
        gone: Called when a part is no more to which nothing else is equal.
    """
    if isinstance(value, ByValue):
        return type(value), *(_weak(part, gone) for part in value.parts)
    if isinstance(value, tuple):  # an Optax transformation is one, of functions
        return type(value), *(_weak(part, gone) for part in value)
    if isinstance(value, types.MethodType):  # made anew whenever it is asked for
        return value.__func__, _weak(value.__self__, gone)
    if hashable(value) is value and type(value).__hash__ is not object.__hash__:
        return value
    try:
        return _Reference(value, gone)
    except TypeError:
        return hashable(value)


class _Reference(weakref.ref):
    """A weak reference to what equals itself alone."""

    __slots__ = ("_id",)

    def __init__(self, value: Any, gone: Callable[[Any], None]):
        super().__init__(value, gone)  # pyright: ignore[reportCallIssue]
        self._id = id(value)

    def __hash__(self) -> int:
        return self._id

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        mine = self()
        return mine is not None and isinstance(other, _Reference) and other() is mine
