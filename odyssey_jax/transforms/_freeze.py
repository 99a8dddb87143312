"""Parameters that stay as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax
import optax

from odyssey_jax._types import PyTree


def freeze(
    optimizer: optax.GradientTransformation, frozen: Sequence[str]
) -> optax.GradientTransformation:
    """Trains all parameters but those that a pattern is found in.

    A parameter's path is its keys with slashes between them, as for `layer_labels`. The frozen
    ones have no place in the optimizer's state (no moments), and no gradient is used, weight
    decay included.

    Args:
        optimizer: trains the others.
        frozen: regular expressions, each found in at least one parameter's path.

    Returns:
        An Optax transformation: `optax.partition`, with labels "frozen" and "trained".

    Raises:
        ValueError: a pattern is no regular expression; or, at `init`, is found in no parameter,
            or nothing is left to train.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> params = {"encoder": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> optimizer = ody.freeze(optax.sgd(0.1), ["encoder/"])
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> print(updates["encoder"]["kernel"], updates["head"]["kernel"])
        [0. 0.] [-0.1 -0.1]
    """
    if isinstance(frozen, str) or not frozen:
        raise ValueError(f"frozen must be a sequence of patterns, at least one; got {frozen!r}.")
    for pattern in frozen:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(f"frozen: {pattern!r} is no regular expression: {error}.") from error

    def labels(params: PyTree) -> PyTree:
        names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern in frozen:
            if not any(re.search(pattern, name) for name in names):
                raise ValueError(
                    f"frozen: {pattern!r} is found in no parameter; there are: {', '.join(names)}."
                )
        if all(any(re.search(pattern, name) for pattern in frozen) for name in names):
            raise ValueError(f"frozen: {list(frozen)} leave no parameter to train.")
        return jax.tree_util.tree_map_with_path(
            lambda path, _: (
                "frozen" if any(re.search(p, _name(path)) for p in frozen) else "trained"
            ),
            params,
        )

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def _name(path: object) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")  # pyright: ignore
