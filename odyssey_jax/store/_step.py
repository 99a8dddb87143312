"""One committed step: its documents and arrays, each compared with its checksum."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from odyssey_jax.store import _checksums, _files
from odyssey_jax.store._checksums import Checksum
from odyssey_jax.store._encode import decode
from odyssey_jax.store._errors import CheckpointCorruptError
from odyssey_jax.store._format import check_version
from odyssey_jax.store._layout import Layout, Place, from_json
from odyssey_jax.store._migrations import migrate
from odyssey_jax.store._packs import read_packs

_UNSUMMED = 1  # the last format version without checksums


class Step:
    """A step's directory, read as any format version has it.

    Documents are always compared with their checksums. What is damaged is a
    `CheckpointCorruptError` or the system's error, and nothing else is: a device without
    memory says nothing of the checkpoint. The reader puts the checkpoint's name to it.

    Args:
        root: The step's directory.
        name: What to call the checkpoint.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._checksums = _checksums.load(root)

    def metadata(self) -> dict[str, Any]:
        """Reads the metadata, as the current format version has it."""
        version = self._version
        with _making_sense("metadata/metadata"):
            return decode(migrate("metadata", self._metadata, version))

    def layout(self) -> Layout:
        """Reads the layout."""
        document, version = self._document("layout"), self._version
        with _making_sense("layout/metadata"):
            return from_json(migrate("layout", document, version))

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        return self._document("metadata")

    @cached_property
    def _version(self) -> int:
        # The metadata agrees with its checksum by now, so that a version that looks newer
        # is newer: every format since the second has its checksums in the same place.
        version = check_version(self._metadata, self._name)
        if version > _UNSUMMED and self._checksums is None:
            raise _checksums.missing(_checksums.FILE)
        return version

    def _document(self, name: str) -> dict[str, Any]:
        file = f"{name}/metadata"
        try:
            text = (self._root / file).read_bytes()
        except FileNotFoundError as error:
            if self._checksums is None:
                raise CheckpointCorruptError(
                    f"{file} is missing: it is damaged, or not odyssey_jax's"
                ) from error
            raise _checksums.missing(file) from error
        if self._checksums is not None:
            _checksums.compare(file, Checksum(len(text), zlib.crc32(text)), self._checksums)
        try:
            data = json.loads(text)
        except ValueError as error:
            raise CheckpointCorruptError(f"{file} is no JSON: {error}") from error
        if not isinstance(data, dict):
            raise CheckpointCorruptError(f"{file} holds a {type(data).__name__}, not an object")
        return data

    def arrays(
        self,
        layout: Layout,
        places: Iterable[Place],
        loose: Mapping[str, Any],
        *,
        verify: bool,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reads arrays.

        Args:
            layout: The step's layout.
            places: The leaves to read; of packed arrays only the files that they lie in.
            loose: Names of the arrays by themselves to read -> the sharding to read them
                into, or None for a numpy array.
            verify: Whether to compare their bytes with the checksums.

        Returns:
            The packed arrays, and the others.
        """
        wanted = self._checksums if verify else None
        if wanted is not None:
            folders = tuple(f"state/loose.{name}/" for name in loose)
            small = [name for name in wanted if not _is_chunk(name) or name.startswith(folders)]
            _checksums.check_files(self._root, small, wanted)
        with _making_sense("layout/metadata"):
            found = read_packs(self._root, layout, places, wanted)
        if not loose:
            return found, {}
        # Orbax takes a second to import, which a program without a store need not wait for.
        from odyssey_jax.store import _orbax

        # What agrees with its checksums is not damaged, whatever goes wrong with it.
        unknown = _making_sense("state") if wanted is None else contextlib.nullcontext()
        with unknown:
            return found, _orbax.read_loose(self._root, loose)

    def verify(self) -> int:
        """Reads all of it, and compares what has a checksum.

        Returns:
            How many bytes had one.
        """
        self.metadata()
        layout = self.layout()
        if self._checksums is None:
            loose = {place.array: None for place in layout.places if place.lies == "loose"}
            self.arrays(layout, layout.places, loose, verify=False)
            return 0
        _checksums.check_files(self._root, self._checksums, self._checksums)
        return sum(wanted.size for wanted in self._checksums.values())


@contextlib.contextmanager
def _making_sense(what: str) -> Iterator[None]:
    """Takes for damage what Python and TensorStore raise of data that is not as it must be."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        if _files.errno_of(error) in _files.REFUSALS:
            raise
        raise CheckpointCorruptError(f"{what} makes no sense: {_files.reason(error)}") from error


def _is_chunk(file: str) -> bool:
    """Whether a file holds a part of an array, and so may be large."""
    folder, _, name = file.rpartition("/")
    return folder.startswith(("state/packed.", "state/loose.")) and name != ".zarray"
