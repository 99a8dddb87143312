"""The fingerprint of what arrays hold: a resume compares it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from odyssey_jax._types import PyTree
from odyssey_jax.data._leaves import dtype_of

# Arrays above this many bytes are sampled: to read all of a large set would delay every start.
WHOLE = 64 * 2**20
_SAMPLED_ROWS = 4_096


def checksum(tree: PyTree, take: Callable[[Any, np.ndarray], Any] = lambda x, rows: x[rows]) -> int:
    """Return a checksum of arrays' contents; of large ones, of rows spread over them.

    Args:
        tree: Pytree of arrays.
        take: `(array, rows) -> rows of the array`, for those that are read in pieces.

    Returns:
        An unsigned integer of 32 bits.
    """
    found = 0
    for leaf in jax.tree.leaves(tree):
        if jax.numpy.issubdtype(dtype_of(leaf), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        shape = np.shape(leaf)
        size = math.prod(shape) * dtype_of(leaf).itemsize
        if size > WHOLE:
            rows = max(1, min(_SAMPLED_ROWS, shape[0], WHOLE * shape[0] // size))
            leaf = take(leaf, np.linspace(0, shape[0] - 1, rows).astype(np.int64))
        array = np.asarray(leaf[:] if shape else leaf)
        found = zlib.crc32(repr((shape, array.dtype.str)).encode(), found)
        found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
    return found
