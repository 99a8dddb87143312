"""What a metric is, and how a loop uses one: empty, observe batch by batch, compute.

The functions take one metric, or a mapping from names to metrics. A metric is an instance of ours,
or a class in the manner of clu.metrics and metrax, whose methods are class methods; a
`clu.metrics.Collection` will do too, and an instance of `flax.nnx.metrics`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._pytree import node
from odyssey_jax._types import Mode
from odyssey_jax.metrics._nnx import as_metric

M = TypeVar("M", bound="Metric")
Kind = TypeVar("Kind", bound=type[Any])


class Metric(Protocol):
    """A pytree with `empty`, `from_model_output`, `merge` and `compute`.

    `merge` is associative, and merging with an empty metric changes nothing; so the metric of
    a data set is that of its batches merged, in whatever way it is split.

    It may say by a member `mode`, "min" or "max", whether less or more of it is better: callbacks
    that monitor it then need not be told.
    """

    def empty(self: M) -> M:
        """Return the metric of no examples."""
        ...

    def from_model_output(self: M, **outputs: Any) -> M:
        """Return the metric of one batch."""
        ...

    def merge(self: M, other: M) -> M:
        """Return the metric of the examples of both."""
        ...

    def compute(self) -> Any:
        """Return the value of the metric."""
        ...


@dataclass_transform(eq_default=False, frozen_default=True, field_specifiers=(dataclasses.field,))
def pytree_dataclass(kind: Kind) -> Kind:
    """Make a class a frozen dataclass and a pytree; fields marked `static` are no leaves."""

    def shown(self: Any) -> str:
        static = [field.name for field in dataclasses.fields(self) if "static" in field.metadata]
        values = ((name, getattr(self, name)) for name in static)
        named = ", ".join(f"{name}={x!r}" for name, x in values if x is not None)
        return f"{type(self).__name__}({named})"

    if "__repr__" not in vars(kind):
        kind.__repr__ = shown  # pyright: ignore[reportAttributeAccessIssue]
    # By identity: a dataclass would compare its arrays to a bool.
    return node(dataclasses.dataclass(frozen=True, eq=False)(kind))


def empty(metric: Any, outputs: Mapping[str, Any] | None = None) -> Any:
    """Return the state before any batch, in the form that `observe` keeps.

    `observe(metric, empty(metric, outputs), outputs)` has the structure, shapes and dtypes of
    `empty(metric, outputs)`, with no weak types, so that it can be carried in a loop.

    Args:
        metric: A metric, or a mapping from names to metrics.
        outputs: What the loss function returns, or its `jax.eval_shape`. Nothing is computed.
            Metrics of clu and metrax take some of their dtypes and shapes from it; without it
            they start as their own `empty()` has it.

    Returns:
        The state: a pytree, for a mapping a dict of them.

    Raises:
        TypeError: If something is not a metric.
        ValueError: If an output that a metric needs is missing, or the metric's state grows with
            every batch.

    Example:
        >>> from odyssey_jax.metrics import Accuracy, Mean
        >>> state = empty({"loss": Mean("loss"), "accuracy": Accuracy()})
        >>> sorted(state), state["accuracy"].count.dtype.name
        (['accuracy', 'loss'], 'int32')
    """
    return _over_names(lambda who, m: _empty(who, m, outputs), metric)


def observe(metric: Any, state: Any, outputs: Mapping[str, Any]) -> Any:
    """Return the state after a batch: `state.merge(metric.from_model_output(**outputs))`.

    Args:
        metric: A metric, or a mapping from names to metrics.
        state: The state so far, from `empty` or `observe` with the same metric.
        outputs: Named outputs of the batch. A metric is passed those its signature accepts.

    Returns:
        The state, of the same structure, shapes and dtypes.

    Raises:
        TypeError: If something is not a metric.
        ValueError: If an output that a metric needs is missing, or the state would change form.

    Example:
        >>> from odyssey_jax.metrics import Mean
        >>> metrics = {"loss": Mean("loss")}
        >>> state = observe(metrics, empty(metrics), {"loss": jnp.array(0.5), "weight": 32})
        >>> {name: float(value) for name, value in compute(state).items()}
        {'loss': 0.5}
    """
    return _over_names(lambda who, m, s: _observe(who, m, s, outputs), metric, state)


def compute(state: Any) -> Any:
    """Return the value of a state or, for a mapping, a dict of the values.

    Args:
        state: From `empty` or `observe`.

    Returns:
        What the metric's `compute` returns; for `Mean` and `Accuracy` a float32 scalar.

    Example:
        >>> from odyssey_jax.metrics import Accuracy
        >>> compute({"accuracy": Accuracy()})["accuracy"].dtype.name
        'float32'
    """
    return _over_names(lambda _, s: s.compute(), state)


def metric_modes(sets: Mapping[str, Mapping[str, Any] | None]) -> tuple[tuple[str, Mode], ...]:
    """Return which way is better of the metrics that know it.

    Args:
        sets: Prefix, such as "valid", to the metrics that are logged under it.

    Returns:
        Pairs of a name, such as "valid/accuracy", and the metric's `mode`, where it has one.

    Example:
        >>> from odyssey_jax.metrics import Accuracy, Mean
        >>> metric_modes({"valid": {"top1": Accuracy(), "norm": Mean("norm")}})
        (('valid/top1', 'max'),)
    """
    return tuple(
        (f"{prefix}/{name}", mode)
        for prefix, metrics in sets.items()
        for name, metric in (metrics or {}).items()
        if (mode := getattr(as_metric(metric), "mode", None)) in ("min", "max")
    )


def _over_names(function, tree, *rest, name=None):
    """Return `function(who, metric, ...)`, for each metric in a mapping of them."""
    if isinstance(tree, Mapping):
        for other in rest:
            if not isinstance(other, Mapping) or set(other) != set(tree):
                has = sorted(other) if isinstance(other, Mapping) else type(other).__name__
                raise ValueError(f"the metrics are {sorted(tree)}, but the state is of {has}.")
        return {
            key: _over_names(function, tree[key], *(r[key] for r in rest), name=key) for key in tree
        }
    tree = as_metric(tree)
    # An instance of ours says what it is: Mean('loss'); a class of clu or metrax has a name.
    kind = tree.__name__ if inspect.isclass(tree) else type(tree).__name__
    who = f"metric {kind}" if name is None else f"metric {name!r} ({kind})"
    return function(who, tree, *rest)


def _empty(who: str, metric: Any, outputs: Mapping[str, Any] | None) -> Any:
    _check_is_metric(who, metric)
    state = jax.tree.map(jnp.asarray, metric.empty())
    if outputs is None:
        return _cast(state, state)
    # The first merge may settle dtypes (int32 zeros, float counts) and shapes (a zero for one
    # number for each threshold); the second must then change nothing.
    merged = jax.eval_shape(lambda s, o: _merge(who, metric, s, o), state, outputs)
    if jax.tree.structure(merged) == jax.tree.structure(state):
        settled = jax.tree.map(_spread, state, merged)
        again = jax.eval_shape(lambda s, o: _merge(who, metric, s, o), settled, outputs)
        if _forms(again) == _forms(settled):
            return settled
    raise ValueError(
        f"{who} grows with every batch, so a compiled loop cannot carry it. Use a metric whose "
        "state is of a fixed size, or collect its outputs outside the loop."
    )


def _observe(who: str, metric: Any, state: Any, outputs: Mapping[str, Any]) -> Any:
    _check_is_metric(who, metric)
    merged = _merge(who, metric, state, outputs)
    if jax.tree.structure(merged) == jax.tree.structure(state):
        was, now = _forms(state), _forms(merged)
        fits = all(
            a.shape == b.shape and jnp.promote_types(a.dtype, b.dtype) == a.dtype
            for a, b in zip(was, now, strict=True)
        )
        if fits:
            return _cast(merged, state)
    raise ValueError(
        f"{who} changes the form of its state, so a compiled loop cannot carry it: from "
        f"{_summary(state)} to {_summary(merged)}. Start from empty(metric, outputs), which "
        "finds the form that lasts, if there is one."
    )


def _merge(who: str, metric: Any, state: Any, outputs: Mapping[str, Any]) -> Any:
    """Return `state` merged with those of the outputs that the metric's signature accepts."""
    make = _from_outputs(metric)
    parameters = inspect.signature(make).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for p in named:
        if p.default is p.empty and p.name not in outputs:
            raise missing(who, repr(p.name), outputs)
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        accepted = dict(outputs)
    else:
        accepted = {p.name: outputs[p.name] for p in named if p.name in outputs}
    try:
        return state.merge(make(**accepted))
    except KeyError as error:
        # A signature of **outputs alone does not say which of them it looks up.
        if error.args and error.args[0] not in outputs:
            raise missing(who, repr(error.args[0]), outputs) from error
        raise
    except Exception as error:
        error.add_note(f"while {who} observed the outputs {sorted(outputs)}")
        raise


def _from_outputs(metric: Any) -> Any:
    """Return `from_model_output`, which a clu Collection calls by another name."""
    single = getattr(metric, "single_from_model_output", None)
    return single or getattr(metric, "from_model_output", None)


def _check_is_metric(who: str, metric: Any) -> None:
    lacks = [name for name in ("empty", "merge", "compute") if not hasattr(metric, name)]
    if _from_outputs(metric) is None:
        lacks.append("from_model_output")
    if lacks:
        raise TypeError(
            f"{who} is not a metric: it has no {', '.join(lacks)}. Pass one of "
            "odyssey_jax.metrics, an instance of nnx.metrics, or a metric class of clu or metrax."
        )
    if inspect.isclass(metric) and inspect.isfunction(inspect.getattr_static(metric, "empty")):
        raise TypeError(
            f"{who} is a class whose methods need an instance. Pass {metric.__name__}(...) "
            f"instead of {metric.__name__}."
        )


def _spread(x: jax.Array, form: jax.ShapeDtypeStruct) -> jax.Array:
    """Return x in the dtype of `form`, and in its shape if x is a scalar."""
    return jnp.broadcast_to(jnp.asarray(x, form.dtype), form.shape if x.ndim == 0 else x.shape)


def _cast(tree: Any, like: Any) -> Any:
    """Return the tree in the dtypes of another, without weak types."""
    return jax.tree.map(lambda x, form: jnp.asarray(x, jnp.result_type(form)), tree, like)


def _forms(tree: Any) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(tree)]


def _summary(tree: Any) -> str:
    return "[" + ", ".join(f"{x.dtype.name}{list(x.shape)}" for x in _forms(tree)) + "]"


def missing(who: str, wanted: str, available: Iterable[str]) -> ValueError:
    """Return the error that says which output a metric lacks, and which there are."""
    names = ", ".join(repr(name) for name in sorted(available)) or "none"
    return ValueError(
        f"{who} needs the output {wanted}, but the outputs are {names}. "
        "Return it from the loss function."
    )


def kept(who: str, mask: Any, shape: tuple[int, ...]) -> jax.Array:
    """Return the mask as booleans of `shape`, of which it may have the leading axes only."""
    return along(who, "mask", jnp.ones(shape, bool) if mask is None else mask, shape).astype(bool)


def along(who: str, name: str, x: Any, shape: tuple[int, ...]) -> jax.Array:
    """Return an array of `shape`, of which it may have the leading axes only."""
    x = jnp.asarray(x)
    if x.shape != shape[: x.ndim]:
        raise ValueError(
            f"{who} needs a {name} of the shape of the values, {list(shape)}, or of its leading "
            f"axes, got {list(x.shape)}."
        )
    return jnp.broadcast_to(x.reshape(x.shape + (1,) * (len(shape) - x.ndim)), shape)
