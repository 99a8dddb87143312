"""Arrays that are not written again: a step has hard links to the files of an earlier one.

Each step stays whole, and is read, copied, deleted and killed as any other: that the bytes are
there once, and for as long as a step has them, is the file system's to know.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from odyssey_jax.store import _checksums, _files
from odyssey_jax.store._checksums import Checksums
from odyssey_jax.store._errors import CheckpointError
from odyssey_jax.store._layout import Content, Layout
from odyssey_jax.store._snapshot import Linked
from odyssey_jax.store._stored_step import StoredStep

# What a file system answers that has no hard links, or too many of one file already, or gives
# none of another user's.
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Held(NamedTuple):
    """The arrays of a committed step that later ones may link to.

    Attributes:
        step: The step.
        contents: What they hold, by name.
        sums: The checksums of their files; in the first process.
    """

    step: int
    contents: Mapping[str, Content]
    sums: Checksums


def held_by(step: int, root: Path, layout: Layout) -> Held:
    """Return what a step that was just written holds for later ones."""
    directories = _directories(layout)
    return Held(step, layout.constant, _below(_checksums.load(root), directories.values()))


def folders_of(layout: Layout) -> set[str]:
    """Return the directories of a step in which the files are that later ones may link to."""
    return {f"state/{directory}" for directory in _directories(layout).values()}


def again(found: Held, root: Path, layout: Layout) -> Linked:
    """Return which arrays another step holds, by what was said of them."""
    arrays = {n: d for n, d in _directories(layout).items() if _same(found, layout, n)}
    return Linked(root, arrays, _below(found.sums, arrays.values()))


def _same(found: Held, layout: Layout, name: str) -> bool:
    return found.contents.get(name) == layout.constant[name]


def alike(
    root: Path, layout: Layout, packed: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray]
) -> Linked:
    """Return which arrays another step holds, by reading it: to the bit.

    Args:
        root: The step's directory.
        layout: What is to be written.
        packed: The packed arrays, as they are to be stored.
        whole: The arrays by themselves.
    """
    found: dict[str, str] = {}
    sums: Checksums = {}
    with contextlib.suppress(CheckpointError, OSError):  # it is damaged, or another library's
        sums = _checksums.load(root)
        stored = StoredStep(root, root.name).layout()
        for name, content in layout.constant.items():
            places = tuple(place for place in stored.places if place.array == name)
            if content != Content(places, stored.packs.get(name)):
                continue
            mine = {name: packed[name]} if name in packed else {}
            alone = {name: whole[name]} if name in whole else {}
            files = _checksums.files_of(mine, layout.packs, alone)
            directory = places[0].directory
            zarray = f"state/{directory}/.zarray"
            if _below(sums, [directory]).keys() == {*files, zarray}:
                _checksums.check_files(root, [zarray], sums)
                if all(_is_same(root, file, array) for file, array in files.items()):
                    found[name] = directory
    return Linked(root, found, _below(sums, found.values()))


def _is_same(root: Path, file: str, array: np.ndarray) -> bool:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    end = 0
    with _files.open_regular(root, file, data.size) as stream:
        while block := stream.read(_checksums.BLOCK):
            start, end = end, end + len(block)
            if not np.array_equal(np.frombuffer(block, np.uint8), data[start:end]):
                return False
    return end == data.size


def _directories(layout: Layout) -> dict[str, str]:
    return {name: content.places[0].directory for name, content in layout.constant.items()}


def _below(sums: Checksums, directories: Iterable[str]) -> Checksums:
    mine = {f"state/{directory}" for directory in directories}
    return {file: known for file, known in sums.items() if file.rpartition("/")[0] in mine}


def link(source: Path, target: Path) -> None:
    """Give an array's files a second name; copy them where the file system has no hard links."""
    target.mkdir()
    for file in sorted(source.iterdir()):
        try:
            os.link(file, target / file.name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(file, target / file.name)
            _files.sync(target / file.name)


def is_copied(linked: Linked, root: Path) -> bool:
    """Return whether the file system has made copies of what was to be linked."""
    files = (root / file for file in linked.sums)
    return any(file.stat().st_nlink < 2 for file in files if file.exists())  # else another's
