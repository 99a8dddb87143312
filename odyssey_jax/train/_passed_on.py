"""Which results of a function are its arguments, handed on as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# What computes nothing of a value that goes through it.
_SAME = {"optimization_barrier", "copy", "sharding_constraint", "reshard"}
_CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call"}
_CALLS |= {"custom_vjp_call", "custom_vjp_call_jaxpr"}


def passed_on(function: Callable[..., Any], *args: Any) -> list[int | None]:
    """Return, for each leaf that a function returns, which leaf of the arguments it is.

    Transformations of Flax NNX (`nnx.remat`, `nnx.scan`, ...) return every variable of a module,
    changed or not, and each comes out as another tracer than it went in.

    Args:
        function: Pure; it is traced once.
        *args: Arrays, or tracers of them.

    Returns:
        The index of the argument's leaf, or None for what is computed.
    """
    return origins(jaxpr_of(function, *args))


def jaxpr_of(function: Callable[..., Any], *args: Any) -> Any:
    """Return the jaxpr of a function of arguments like these, which may be tracers."""
    form = lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
    return jax.make_jaxpr(function)(*jax.tree.map(form, args)).jaxpr


def origins(jaxpr: Any, given: Sequence[Any] | None = None) -> list[Any]:
    """Return, for each result of a jaxpr, which of its arguments it is; None for what is its own.

    Args:
        jaxpr: A jaxpr, closed or not.
        given: What to call each argument: those of one value may have one name, and None is of no
            use. None calls them by their indices.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    names = range(len(jaxpr.invars)) if given is None else given
    known = dict(zip(jaxpr.invars, names, strict=True))
    of = lambda var: None if hasattr(var, "val") else known.get(var)  # a literal has no origin
    for equation in jaxpr.eqns:
        before = [of(var) for var in equation.invars]
        if any(name is not None for name in before):
            known |= zip(equation.outvars, _results(equation, before), strict=True)
    return [of(var) for var in jaxpr.outvars]


def _results(equation: Any, given: list[Any]) -> list[Any]:
    """Return what the results of an equation are called, by what its arguments are."""
    name, params, count = equation.primitive.name, equation.params, len(equation.outvars)
    if name in _SAME:
        return given
    if name in _CALLS:
        inner = params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")
        return origins(inner, given)
    if name == "scan":
        return _results_of_scan(equation, given)
    if name == "while":
        start, first = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        step = lambda carry: origins(params["body_jaxpr"], [*given[start:first], *carry])
        return _carried(step, given[first:])
    if name == "cond":
        found = zip(*(origins(branch, given[1:]) for branch in params["branches"]), strict=True)
        return [one if all(one == other for other in others) else None for one, *others in found]
    return [None] * count


def _results_of_scan(equation: Any, given: list[Any]) -> list[Any]:
    """Return it of a scan, whose parameters differ between versions of JAX: by the shapes."""
    inner = getattr(equation.params["jaxpr"], "jaxpr", equation.params["jaxpr"])
    in_rows, out_rows = (
        [len(outer.aval.shape) != len(own.aval.shape) for outer, own in zip(*pair, strict=True)]
        for pair in ((equation.invars, inner.invars), (equation.outvars, inner.outvars))
    )
    first, count = in_rows.count(False) - out_rows.count(False), out_rows.count(False)
    row = lambda name: None if name is None else ("row", name)
    rows = list(map(row, given[first + count :]))
    found: list[Any] = []

    def step(carry: list[Any]) -> list[Any]:
        found[:] = origins(inner, [*given[:first], *carry, *rows])
        return found[:count]

    carry = _carried(step, given[first : first + count])
    # What is stacked of the rows of one array is that array.
    whole = dict(zip(rows, given[first + count :], strict=True))
    return carry + [whole.get(name) for name in found[count:]]


def _carried(step: Callable[[list[Any]], list[Any]], carry: list[Any]) -> list[Any]:
    """Return what a loop leaves of its carry: what is the same after a step as before it."""
    while True:
        after = [a if a == b else None for a, b in zip(carry, step(carry), strict=True)]
        if after == carry:
            return carry
        carry = after
