"""One committed step: its documents and arrays, each compared with its checksum."""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from odyssey_jax.store import _checksums, _files
from odyssey_jax.store._checksums import Checksum
from odyssey_jax.store._chunks import check_sizes, pieces, read_loose, read_packs
from odyssey_jax.store._errors import CheckpointCorruptError, CheckpointError
from odyssey_jax.store._format import check_header, check_version, decode, migrate
from odyssey_jax.store._layout import Layout, Place, from_json
from odyssey_jax.store._place import key_like

# What `.zarray` may say.
_ZARRAY = {"chunks", "compressor", "dimension_separator", "dtype", "fill_value", "filters"}
_ZARRAY |= {"order", "shape", "zarr_format"}


class StoredStep:
    """A step's directory, read as any format version has it.

    Documents are always compared with their checksums. What is damaged is a
    `CheckpointCorruptError` or the system's error, and nothing else is: a device without
    memory says nothing of the checkpoint. The reader puts the checkpoint's name to it.

    Args:
        root: The step's directory.
        name: What to call the checkpoint.
        fetch: Called before files are read that hold arrays, with their names.

    Raises:
        CheckpointCorruptError: If it has no checksums; its methods raise that too.
        CheckpointError: If it is another library's.
    """

    def __init__(
        self, root: Path, name: str, fetch: Callable[[Iterable[str]], None] = lambda _: None
    ) -> None:
        self._root, self._name, self._fetch = root, name, fetch
        self._step = int(root.name)
        if _files.is_foreign(root):
            # Not corrupt: neither is it ours, nor passed over for an older one.
            raise CheckpointError(
                "it is not odyssey_jax's, but another library's, as of Orbax's CheckpointManager; "
                "ody.load_params reads arrays of those, and a run has a directory of its own"
            )
        self._checksums = _checksums.load(root)

    def metadata(self) -> dict[str, Any]:
        """Read the metadata, as the current format version has it."""
        version = self._version
        with _making_sense("metadata/metadata"):
            metadata = decode(migrate("metadata", self._metadata, version))
        check_header(metadata, self._step)
        return metadata

    def layout(self) -> Layout:
        """Read the layout."""
        document, version = self._document("layout/metadata"), self._version
        self.metadata()  # which says whether it is this step's at all
        with _making_sense("layout/metadata"):
            layout = from_json(migrate("layout", document, version))
            for place in layout.places:
                if place.impl is not None:
                    _check_key(place)
        return layout

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        return self._document("metadata/metadata")

    @cached_property
    def _version(self) -> int:
        # The metadata agrees with its checksum by now, so that a version that looks newer is
        # newer: every format version has its checksums in the same place.
        return check_version(self._metadata, self._name)

    def _document(self, file: str) -> dict[str, Any]:
        known = self._checksums.get(file)
        try:
            text = _files.read_document(self._root, file, known and known.size)
        except FileNotFoundError as error:
            raise _checksums.missing(file) from error
        _checksums.compare(file, Checksum(len(text), zlib.crc32(text)), self._checksums)
        return _checksums.parse(file, text)

    def arrays(
        self,
        layout: Layout,
        places: Iterable[Place],
        loose: Mapping[str, Any],
        *,
        verify: bool,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Read arrays.

        Args:
            layout: The step's layout.
            places: The leaves to read; of packed arrays only the files that they lie in.
            loose: Names of the arrays by themselves to read -> the sharding to read them
                into, or None for a numpy array.
            verify: True to compare their bytes with the checksums.

        Returns:
            The packed arrays, and the others: of those that are spread over devices only the
            files that this process's devices have a part of are read.
        """
        places, sums = list(places), self._checksums
        if verify:  # the arrays are compared as they are read, below
            documents = [name for name in sums if not _checksums.is_chunk(name)]
            _checksums.check_files(self._root, documents, sums)
        chunks = self._loose_chunks(place for place in places if place.array in loose)
        with _making_sense("layout/metadata"):
            packed = read_packs(self._root, layout, places, sums, self._fetch, verify=verify)
        return packed, read_loose(self._root, chunks, loose, sums, self._fetch, verify=verify)

    def _loose_chunks(self, places: Iterable[Place]) -> list[tuple[Place, list[int]]]:
        """Return how arrays by themselves are cut.

        Raises:
            CheckpointCorruptError: If they are not what the layout says.
        """
        lengths: dict[str, list[int]] = {}
        for name, known in self._checksums.items():
            if _checksums.is_chunk(name):
                lengths.setdefault(name.rpartition("/")[0], []).append(known.size)
        found = []
        for place in places:
            if place.lies == "loose":
                folder = f"state/{place.array}"
                with _making_sense(f"{folder}/.zarray"):
                    found.append((place, self._cut(place, folder, lengths.get(folder, []))))
        return found

    def _cut(self, place: Place, folder: str, lengths: list[int]) -> list[int]:
        """Return the shape of a chunk; raise unless the array has this shape and these files."""
        zarray, dtype = self._document(f"{folder}/.zarray"), np.dtype(place.data_dtype)
        chunks = zarray["chunks"]
        if not (
            zarray.keys() <= _ZARRAY
            and zarray["shape"] == list(place.data_shape)
            and zarray["dtype"] in (dtype.name, dtype.str)
            and (zarray["zarr_format"], zarray["order"]) == (2, "C")
            and zarray.get("dimension_separator", ".") == "."
            and all(zarray.get(name) is None for name in ("compressor", "filters", "fill_value"))
            and all(type(n) is int and n > 0 for n in chunks)
            and set(lengths) == {math.prod(chunks) * dtype.itemsize}
            and len(lengths) == math.prod(map(pieces, place.data_shape, chunks))
            and len(chunks) == len(place.data_shape)
        ):
            raise ValueError(f"it is not of leaf {place.path[:200]}")
        return chunks

    def verify(self, part: int = 0, parts: int = 1) -> int:
        """Read all of it, or a part of its files, and compare it with its checksums.

        Args:
            part: Which part.
            parts: Of how many.

        Returns:
            How many bytes had one.
        """
        layout = self.layout()
        for name, pack in layout.packs.items():
            check_sizes(name, pack, self._checksums)
        self._loose_chunks(layout.places)
        files = sorted(self._checksums)[part::parts]
        self._fetch(files)
        _checksums.check_files(self._root, files, self._checksums)
        return sum(self._checksums[file].size for file in files)


@contextlib.contextmanager
def _making_sense(what: str) -> Iterator[None]:
    """Turn what Python raises of damaged data into CheckpointCorruptError."""
    try:
        yield
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        if _files.errno_of(error) in _files.REFUSALS:
            raise
        raise CheckpointCorruptError(f"{what} makes no sense: {_files.reason(error)}") from error


def _check_key(place: Place) -> None:
    """Raise ValueError unless a typed key is what its words make."""
    like = key_like(place.data_shape, str(place.impl))
    if (like.shape, str(like.dtype)) != (place.shape, place.dtype):
        raise ValueError(f"leaf {place.path[:200]} is not what its words make")
