"""Convolutions in the one layout that XLA's CPU backend knows how to compute within a loop.

Outside of loops it transposes the others, such as those of a kernel's gradient, to that layout.
In a loop it leaves them as they are, and computes them 20 times slower:
https://github.com/jax-ml/jax/issues/12868
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

_CONVOLUTION = "conv_general_dilated"


def slow_in_loops(function: Callable[..., Any], *args: Any) -> bool:
    """Return whether a function has convolutions, and they are computed on a CPU."""
    return jax.default_backend() == "cpu" and _has_any(jax.make_jaxpr(function)(*args).jaxpr)


def for_loops(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes the same, its convolutions in the one layout."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        out = _evaluate(traced, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return call


def _has_any(jaxpr: Jaxpr) -> bool:
    return any(
        eqn.primitive.name == _CONVOLUTION or any(_has_any(j.jaxpr) for j in _within(eqn.params))
        for eqn in jaxpr.eqns
    )


def _within(params: dict[str, Any]) -> list[ClosedJaxpr]:
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, (ClosedJaxpr, Jaxpr)))
    closed = [ClosedJaxpr(x, ()) if isinstance(x, Jaxpr) else x for x in leaves]
    return [x for x in closed if isinstance(x, ClosedJaxpr)]


def _transposed(closed: ClosedJaxpr) -> ClosedJaxpr:
    if not _has_any(closed.jaxpr):
        return closed
    return jax.make_jaxpr(functools.partial(_evaluate, closed))(*closed.in_avals)


def _evaluate(closed: ClosedJaxpr, *args: Any) -> Sequence[Any]:
    """Evaluate a jaxpr, with convolutions in the one layout."""
    values: dict[Any, Any] = {}
    read = lambda x: x.val if isinstance(x, Literal) else values[x]
    jaxpr = closed.jaxpr
    values.update(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        inputs = [read(x) for x in eqn.invars]
        if eqn.primitive.name == _CONVOLUTION:
            out: Any = _convolve(eqn.primitive, *inputs, **eqn.params)
        else:
            params = eqn.primitive.get_bind_params(_params(eqn.params))
            with eqn.ctx.manager:
                out = eqn.primitive.bind(*inputs, **params)
        out = out if eqn.primitive.multiple_results else [out]
        values.update(zip(eqn.outvars, out, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _params(params: dict[str, Any]) -> dict[str, Any]:
    def rewritten(x: Any) -> Any:
        if isinstance(x, ClosedJaxpr):
            return _transposed(x)
        if isinstance(x, Jaxpr) and not x.constvars:
            return _transposed(ClosedJaxpr(x, ())).jaxpr
        return tuple(map(rewritten, x)) if type(x) is tuple else x

    return {name: rewritten(x) for name, x in params.items()}


def _convolve(primitive: Any, x: Any, kernel: Any, **params: Any) -> Any:
    """Convolve [batch, *space, channels] with [*space, channels, out]."""
    form, last = params["dimension_numbers"], x.ndim - 1
    channels_last = lambda spec: (spec[0], *spec[2:], spec[1])
    x = lax.transpose(x, channels_last(form.lhs_spec))
    kernel = lax.transpose(kernel, (*form.rhs_spec[2:], form.rhs_spec[1], form.rhs_spec[0]))
    rows, space = (0, last, *range(1, last)), range(last - 1)
    numbers = lax.ConvDimensionNumbers(rows, (last, last - 1, *space), rows)
    out = primitive.bind(x, kernel, **{**params, "dimension_numbers": numbers})
    return lax.transpose(out, np.argsort(channels_last(form.out_spec)))
