"""Which results of a function are its arguments, handed on as they are."""

from __future__ import annotations

from collections.abc import Callable
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
    form = lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
    closed = jax.make_jaxpr(function)(*jax.tree.map(form, args))
    return [_origin(closed.jaxpr, var) for var in closed.jaxpr.outvars]


def _origin(jaxpr: Any, var: Any) -> int | None:
    """Return which argument of a jaxpr a variable is, None for a result of its own."""
    while True:
        if not hasattr(var, "count") and hasattr(var, "val"):  # a literal
            return None
        for index, given in enumerate(jaxpr.invars):
            if given is var:
                return index
        equation = next((e for e in jaxpr.eqns if any(o is var for o in e.outvars)), None)
        if equation is None:  # a constant
            return None
        index = next(i for i, o in enumerate(equation.outvars) if o is var)
        before = _argument_of(equation, index)
        if before is None:
            return None
        var = equation.invars[before]


def _argument_of(equation: Any, index: int) -> int | None:
    """Return which argument of an equation its result is."""
    name, params = equation.primitive.name, equation.params
    if name in _SAME:
        return index
    if name in _CALLS:
        inner = params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")
        return _inner_origin(inner, index)
    if name == "scan":
        return _argument_of_scan(equation, index)
    if name == "while":
        constants = params["body_nconsts"]
        if _inner_origin(params["body_jaxpr"], index) != constants + index:
            return None
        return params["cond_nconsts"] + constants + index
    if name == "cond":
        origins = {_inner_origin(branch, index) for branch in params["branches"]}
        origin = origins.pop()
        return None if origins or origin is None else origin + 1
    return None


def _argument_of_scan(equation: Any, index: int) -> int | None:
    """Return it of a scan, whose parameters differ between versions of JAX: by the shapes."""
    inner = getattr(equation.params["jaxpr"], "jaxpr", equation.params["jaxpr"])
    in_rows, out_rows = (
        [len(outer.aval.shape) != len(own.aval.shape) for outer, own in zip(*pair, strict=True)]
        for pair in ((equation.invars, inner.invars), (equation.outvars, inner.outvars))
    )
    origin = _origin(inner, inner.outvars[index])
    if origin is None:
        return None
    if out_rows[index]:  # a row of what is stacked is one of what was
        return origin if in_rows[origin] else None
    constants = in_rows.count(False) - out_rows.count(False)
    return origin if origin == constants + index else None


def _inner_origin(jaxpr: Any, index: int) -> int | None:
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    return _origin(inner, inner.outvars[index])
