"""An optimizer for each part of the parameters, by the part's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from odyssey_jax._opt_state import Parts, with_named_args
from odyssey_jax._types import PyTree


def check_parts(names: Any, params: PyTree) -> None:
    """Raise ValueError unless these are the names of the parameters' top-level parts."""
    keys = [key for key, x in params.items() if jax.tree.leaves(x)] if _is_named(params) else None
    if keys is None or set(names) != set(keys):
        there = "which is no dict" if keys is None else f"whose parts are {sorted(map(str, keys))}"
        raise ValueError(
            f"optimizers of {sorted(names)} don't fit the parameters, {there}: each top-level part "
            "(of an NNX model each attribute) must have one."
        )


def _is_named(params: PyTree) -> bool:
    return isinstance(params, Mapping)


def by_part(
    optimizers: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    """Update each top-level part of the parameters by an optimizer of its own.

    Args:
        optimizers: Name to transformation: of a dict of parameters each key, of an NNX model each
            attribute that has some.

    Returns:
        An Optax transformation, whose state is a `Parts`.

    Raises:
        ValueError: If, at `init`, the names are not those of the parts.

    Source:
        `optax.partition`, whose groups need not be parts.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> params = {"d": jnp.ones(()), "g": jnp.ones(())}
        >>> optimizer = by_part({"d": optax.sgd(0.1), "g": optax.sgd(1.0)})
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> float(updates["d"]), float(updates["g"])
        (-0.10000000149011612, -1.0)
    """
    each = {name: with_named_args(x) for name, x in optimizers.items()}

    def init(params: PyTree) -> Parts:
        check_parts(each, params)
        return Parts({name: one.init(params[name]) for name, one in each.items()})

    def update(updates, state, params=None, **extra):
        made, states = dict(updates), {}
        for name, one in each.items():
            own = None if params is None else params[name]
            more = _of_part(extra, name, params)
            made[name], states[name] = one.update(updates[name], state[name], own, **more)
        return made, Parts(states)

    return optax.GradientTransformationExtraArgs(init, update)


def _of_part(extra: Mapping[str, Any], name: str, params: Any) -> dict[str, Any]:
    """Return what an update is given beside, as functions and gradients of one part."""
    whole: Callable[[Any], Any] = lambda part: {**params, name: part}
    found = dict(extra)
    if "grad" in extra:
        found["grad"] = extra["grad"][name]
    if "value_fn" in extra:
        found["value_fn"] = lambda part: extra["value_fn"](whole(part))
    if "grad_fn" in extra:
        found["grad_fn"] = lambda part, *_: extra["grad_fn"](whole(part))[name]
    return found


class CountedState(NamedTuple):
    """The state of `counted`.

    Attributes:
        updates: Int32 scalar, the updates so far.
        inner_state: The optimizer's own.
    """

    updates: jax.Array
    inner_state: PyTree


def counted(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Count an optimizer's updates: a step of one's own may make several, or none."""
    inner = with_named_args(optimizer)

    def init(params: PyTree) -> CountedState:
        return CountedState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra):
        updates, new = inner.update(updates, state.inner_state, params, **extra)
        return updates, CountedState(state.updates + 1, new)

    return optax.GradientTransformationExtraArgs(init, update)
