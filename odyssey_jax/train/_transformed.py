"""A batch as its source's transform makes it, within the compiled step."""

from __future__ import annotations

import jax

from odyssey_jax._types import Batch, Transform
from odyssey_jax.train._user_functions import shapes_of

# Apart from what a loss derives from its step's key, which may be split or folded with small ints.
_OF_TRANSFORM = 0x7261_6E64


def transformed(transform: Transform | None, batch: Batch, key: jax.Array | None) -> Batch:
    """Return a batch as a source's transform makes it.

    Args:
        transform: The source's, or None.
        batch: As it is read.
        key: Typed PRNG key of the step; None in validation.
    """
    if transform is None:
        return batch
    key = None if key is None else jax.random.fold_in(key, _OF_TRANSFORM)
    try:
        made = transform(batch, key)
    except Exception as error:
        where = " in validation, where the key is None" if key is None else ""
        error.add_note(f"while tracing your transform with a batch of {shapes_of(batch)}{where}")
        raise
    if not jax.tree.leaves(made):
        raise TypeError(f"the transform must return a batch, got {made!r}; is a `return` missing?")
    return made
