"""What a checkpoint says of a leaf, without reading its data."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from odyssey_jax.store._encode import decode
from odyssey_jax.store._layout import Place
from odyssey_jax.store._paths import name_of, split


class SavedLeaf(NamedTuple):
    """A leaf of a checkpoint.

    Attributes:
        path: Where it is in the tree, e.g. ``.params['w'][0]``.
        shape: Its shape; of a typed key, the shape of the array of keys.
        dtype: Its dtype by name; ``key<fry>`` and the like for typed keys, ``int``,
            ``float``, ``bool`` or ``str`` for a Python value.
        nbytes: The bytes of its data; 0 for a Python value.
        array: The array in the ``state`` item that it lies in, such as ``packed.float32``;
            empty where it lies in none.
        value: The Python value, where it is one.

    Example:
        >>> leaf = SavedLeaf(".params['w'][0]", (2, 3), "float32", 24, "packed.float32")
        >>> leaf.name, str(leaf)
        ('params/w/0', 'float32[2,3]')
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    array: str = ""
    value: Any = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of its path, as text."""
        return tuple(str(part.key) for part in split(self.path))

    @property
    def name(self) -> str:
        """Its path as people write it: the keys with ``/`` between them."""
        return name_of(self.path)

    def __str__(self) -> str:
        if self.value is not None:
            return f"{self.dtype} {self.value!r}"
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def saved_leaf(place: Place) -> SavedLeaf:
    """Says of a place what a user wants to know."""
    inline = place.lies == "inline"
    return SavedLeaf(
        place.path,
        place.shape,
        place.dtype,
        nbytes=0 if inline else place.size * np.dtype(place.data_dtype).itemsize,
        array=f"{place.lies}.{place.array}" if place.array else "",
        value=decode(place.value) if inline else None,
    )
