"""A random permutation of any number of indices that takes no memory."""

from __future__ import annotations

import math

import numpy as np

_ROUNDS = 8
_ODD = np.uint64(0xFF51AFD7ED558CCD)
_32 = np.uint64(32)


def permute(index: np.ndarray, n: int, seed: int, stream: int = 0) -> np.ndarray:
    r"""Return where a random permutation of `range(n)` takes each index.

    A Feistel network over $\{0, ..., a - 1\} \times \{0, ..., b - 1\}$, with
    $a = \lceil\sqrt n\rceil$ and $b = \lceil n / a\rceil$, is a permutation of `range(a * b)`
    whatever its round function is. What it takes beyond $n$, of which there is less than
    $1 / \sqrt n$, it takes on until it lands below (cycle walking), which leaves a permutation of
    `range(n)` (Black and Rogaway, *Ciphers with arbitrary finite domains*, 2002).

    Args:
        index: [k] integers in [0, n).
        n: At least 1, at most 2**63.
        seed: In [0, 2**64).
        stream: At least 0; each stream of a seed is another permutation.

    Returns:
        int64 [k], in [0, n).
    """
    a = math.isqrt(n - 1) + 1
    sizes = np.uint64(a), np.uint64(-(-n // a))
    # NumPy promises that a seed sequence's numbers stay as they are.
    keys = np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(_ROUNDS, np.uint64)
    out = _network(index.astype(np.uint64), sizes, keys)
    beyond = np.flatnonzero(out >= n)
    while beyond.size:
        out[beyond] = walked = _network(out[beyond], sizes, keys)
        beyond = beyond[walked >= n]
    return out.astype(np.int64)


def _network(x: np.ndarray, sizes: tuple[np.uint64, np.uint64], keys: np.ndarray) -> np.ndarray:
    left, right = np.divmod(x, sizes[1])
    for turn, key in enumerate(keys):
        # Each half in turn is moved, modulo its size, by a hash of the other.
        source, target = (right, left) if turn % 2 == 0 else (left, right)
        size = sizes[turn % 2]
        target += _below(size, source + key)
        np.subtract(target, size, out=target, where=target >= size)
    return left * sizes[1] + right


def _below(size: np.uint64, x: np.ndarray) -> np.ndarray:
    """Return a hash of x in [0, size), of a size up to 2**32."""
    x *= _ODD
    x ^= x >> _32
    x *= _ODD
    x >>= _32
    x *= size
    x >>= _32
    return x
