"""Other libraries' parameters: what a file or a directory is, found by looking, and its arrays.

Read are plain Orbax checkpoints, safetensors files and their index, Flax's msgpack and NumPy's
``.npz``. All of these are data: nothing is run or unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from odyssey_jax.store import _files
from odyssey_jax.store._errors import CheckpointError, CheckpointNotFoundError
from odyssey_jax.store._export import SAFETENSORS_NAMES
from odyssey_jax.store._format import encode
from odyssey_jax.store._layout import Place
from odyssey_jax.store._leaves import describe, is_scalar, name_of, tail
from odyssey_jax.store._match import Report, Transfer, by_name
from odyssey_jax.store._objects import BucketPath, Objects
from odyssey_jax.store._place import check_shardings, description, loose_shardings, place_all
from odyssey_jax.store._reader import fill
from odyssey_jax.store._structure import build, find, numbers_in, structure_of

ACCEPTED = (
    "read are the directories of runs and stores, plain Orbax checkpoints, .safetensors files and "
    "their index (.safetensors.index.json), Flax's .msgpack and NumPy's .npz"
)
_HEADER_BYTES = 100_000_000  # of a safetensors file, by its format
_DTYPES = {name: np.dtype(dtype) for dtype, name in SAFETENSORS_NAMES.items()}

# What a manager calls its steps: a number, after a prefix of the user's own.
_STEP = re.compile(r"(?:.*_)?([0-9]+)")
_PROGRAMS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_REMEDIES = {
    **dict.fromkeys(_PROGRAMS, "save its arrays with safetensors.torch.save_file"),
    ".h5": "load it with Keras, and save its arrays with numpy.savez",
    ".keras": "load it with Keras, and save its arrays with numpy.savez",
    ".gguf": "take the model's .safetensors files",
    ".npy": "save it with numpy.savez, by name",
}

# A leaf's path -> the sharding to read it into, or None for an array of NumPy's.
Shardings = Mapping[str, Any]
Convert = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Foreign(NamedTuple):
    """Somebody else's parameters.

    Attributes:
        what: What they are, as an error calls them.
        tree: The arrays, or their descriptions, and Python values.
        fetch: Reads the leaves of these paths, where the tree has descriptions; None where it has
            arrays.
    """

    what: str
    tree: Any
    fetch: Callable[[Shardings], dict[str, Any]] | None = None

    def load(self, subtree: str) -> Any:
        """Return a node in arrays of NumPy's.

        Args:
            subtree: The node, as for `Reader.load`; "params" is all where there is no such node.

        Raises:
            CheckpointError: If there is no such node.
        """
        part = self._part(subtree)
        shardings = {place.path: None for place in part.places.values() if place.lies == "loose"}
        leaves = _by_path(self.tree) | self._fetch(shardings)
        return build(part.node, {n: leaves[place.path] for n, place in part.places.items()})

    def describe(self, subtree: str) -> Any:
        """Return a node with a `jax.ShapeDtypeStruct` for each array; as for `load`."""
        part = self._part(subtree)
        return build(part.node, {n: description(place) for n, place in part.places.items()})

    def restore(self, target: Any, transfer: Transfer | None, subtree: str) -> tuple[Any, Report]:
        """Return a tree like the target, and how the two compare.

        Leaves are found by their names, so that a key may be a number, a string or a field.

        Args:
            target: Arrays or descriptions.
            transfer: What is converted, renamed, initialized and ignored.
            subtree: As for `load`.

        Raises:
            CheckpointMismatchError: If the target differs.
            CheckpointError: If there is no such node, or the transfer names what is not there.
        """
        part = self._part(subtree)
        transfer = by_name(transfer)
        if transfer.convert is not None:
            converted = self._converted(transfer.convert, part)
            return converted.restore(target, replace(transfer, convert=None), "")

        def read(places: Sequence[Place], targets: Sequence[Any]) -> list[Any]:
            check_shardings(places, targets)
            return place_all(places, targets, {}, self._fetch(loose_shardings(places, targets)))

        by_path = {_path(part.names[number]): place for number, place in part.places.items()}
        remedy = (
            "Nothing is cast: give a target of the shapes and dtypes that are there, and say what "
            "has another name, or is left out, with transfer=ody.Transfer(...)."
        )
        return fill(by_path, target, transfer, self.what, read, remedy)

    def _converted(self, convert: Convert, part: _Part) -> Foreign:
        """Return what a function makes of the flat arrays."""
        leaves = _by_path(self.tree)  # of a file, parts of it that are read where they are used
        if self.fetch is not None:
            loose = [place.path for place in part.places.values() if place.lies == "loose"]
            leaves |= self.fetch(dict.fromkeys(loose))
        made = convert({part.names[n]: leaves[place.path] for n, place in part.places.items()})
        if not isinstance(made, Mapping):
            raise ValueError(
                f"convert must return a dict of arrays by name, got {type(made).__name__}."
            )
        return Foreign(f"{self.what}, as converted,", _nested(made, "/"))

    def _part(self, subtree: str) -> _Part:
        if subtree == "params" and not (isinstance(self.tree, Mapping) and "params" in self.tree):
            subtree = ""
        try:
            depth, node = find(structure_of(self.tree), subtree)
            places = [_place(path, x) for path, x in _by_path(self.tree).items()]
        except (CheckpointError, ValueError) as error:  # there is no such node, or leaf
            raise CheckpointError(f"{self.what} cannot be read: {error}") from error
        below = {number: places[number] for number in numbers_in(node)}
        names = {number: name_of(tail(place.path, depth)) for number, place in below.items()}
        return _Part(node, below, names)

    def _fetch(self, shardings: Shardings) -> dict[str, Any]:
        if self.fetch is not None:
            return self.fetch(shardings)
        arrays = _by_path(self.tree)
        return {path: _put(arrays[path], sharding) for path, sharding in shardings.items()}


class _Part(NamedTuple):
    """A node of somebody else's tree.

    Attributes:
        node: The node, as `structure_of` says it.
        places: Its leaves by their numbers.
        names: The leaves' names, as seen from the node.
    """

    node: Any
    places: dict[int, Place]
    names: dict[int, str]


def _by_path(tree: Any) -> dict[str, Any]:
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in pairs}


def _path(name: str) -> str:
    return "".join(f"[{key!r}]" for key in name.split("/"))


def _place(path: str, value: Any) -> Place:
    leaf = describe(path, value)
    if is_scalar(value):
        return Place(*leaf, "inline", value=encode(value))
    return Place(*leaf, "loose", leaf.shape, leaf.dtype, path)


def _put(array: np.ndarray, sharding: Any) -> Any:
    """Return an array in host memory, or of a sharding each device's part of it."""
    dtype = array.dtype.newbyteorder("=")
    if sharding is None:
        return np.array(array, dtype)
    part = lambda index: np.ascontiguousarray(array[index], dtype)
    return jax.make_array_from_callback(array.shape, sharding, part)


def _nested(arrays: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Return flat arrays as a tree; a name that goes on where an array is stays whole."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        keys = name.split(separator)
        if any(separator.join(keys[:end]) in arrays for end in range(1, len(keys))):
            keys = [name]
        node, (*above, last) = tree, keys
        for key in above:
            node = node.setdefault(key, {})
        node[last] = array
    return tree


@contextlib.contextmanager
def find_foreign(path: Path | BucketPath, step: Any = "latest") -> Iterator[Foreign | None]:
    """Find somebody else's parameters.

    Args:
        path: A file or a directory. One in a bucket is downloaded, and deleted at the end.
        step: A step of a `CheckpointManager`'s directory, or "latest".

    Yields:
        What is there; None for a directory in which none of it is found, which may be ours.

    Raises:
        ValueError: If what is there has no steps, and one is asked for.
        CheckpointError: If it is of a kind that is not read, or cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "weights.npz")
        ...     np.savez(file, **{"dense/kernel": np.ones((2, 3))})
        ...     with find_foreign(file) as foreign:
        ...         found = foreign.load("")
        >>> found["dense"]["kernel"].shape
        (2, 3)
    """
    if isinstance(path, Path):
        yield _open(path, step)
        return
    with tempfile.TemporaryDirectory(prefix="odyssey-jax-") as folder:
        local = Path(folder, path.name)
        try:
            yield _open(local, step) if _download(Objects(path), local, step) else None
        except (CheckpointError, ValueError) as error:
            error.args = (str(error).replace(str(local), str(path)), *error.args[1:])
            raise


def _download(objects: Objects, to: Path, step: Any) -> bool:
    """Copy what may be somebody else's; return False where it is not."""
    entries = objects.entries()
    if "checkpoints" in entries or any(name.endswith(".committed") for name in entries):
        return False
    numbers = {name: int(x[1]) for name in entries if (x := _STEP.fullmatch(name))}
    wanted = max(numbers.values(), default=None) if step == "latest" else step
    files: dict[str, Path] = {}
    for name in objects.sizes():
        file = to / name if name else to  # an object by itself has no name below its URL
        if file.suffix in _REMEDIES:  # which is refused by its name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        elif numbers.get(name.partition("/")[0], wanted) == wanted or file.name == "_METADATA":
            files[name] = file
    objects.download(files)
    return to.exists()


def _open(path: Path, step: Any) -> Foreign | None:
    if path.is_dir():
        return _of_directory(path, step)
    if not path.exists():
        return None
    _check_no_step(path, step)
    return _of_file(path)


def _of_directory(path: Path, step: Any) -> Foreign | None:
    if _files.is_ours(path):
        raise CheckpointError(
            f"{str(path)!r} is one step of a store: give the store's directory, "
            f"{str(path.parent)!r}, and step={path.name}"
        )
    steps = _steps(path)
    if (path / "checkpoints").is_dir() or any(map(_files.is_ours, steps.values())):
        return None
    if items := _items(path):
        _check_no_step(path, step)
        return _of_orbax(path, items)
    if steps := {number: items for number, at in steps.items() if (items := _items(at))}:
        if step == "best":
            raise CheckpointError(
                f"{str(path)!r} is a directory of Orbax's CheckpointManager, of which the best "
                f"step is not known here: give one of {sorted(steps)}"
            )
        number = max(steps) if step == "latest" else step
        if number not in steps:
            raise CheckpointNotFoundError(
                f"no step {number} in {str(path)!r}; there are {sorted(steps)}"
            )
        return _of_orbax(path, steps[number])
    for pattern in ("*.safetensors.index.json", "*.safetensors", "*.msgpack", "*.npz"):
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            names = [file.name for file in found]
            raise CheckpointError(f"{str(path)!r} has several such files: give one of {names}")
        if found:
            _check_no_step(path, step)
            return _of_file(found[0])
    for file in sorted(path.iterdir()):
        if file.suffix in _REMEDIES and not steps:
            raise _refused(file)
    return None


def _steps(path: Path) -> dict[int, Path]:
    """Return directories that are called as steps are, by their numbers."""
    pairs = ((_STEP.fullmatch(at.name), at) for at in path.iterdir() if at.is_dir())
    return {int(found[1]): at for found, at in pairs if found}


def _items(path: Path) -> dict[str, Path]:
    """Return the trees of an Orbax checkpoint by name; of one that is a tree itself, ``""``."""
    if (path / "_METADATA").is_file():
        return {"": path}
    return {at.name: at for at in sorted(path.iterdir()) if (at / "_METADATA").is_file()}


def _of_orbax(path: Path, items: Mapping[str, Path]) -> Foreign:
    # Orbax takes a second to import, which a program without a store need not wait for.
    from odyssey_jax.store import _orbax

    what = f"the Orbax checkpoint {str(path)!r}"
    try:
        found = _orbax.PlainReader(items)
    except Exception as error:  # Orbax has many kinds
        raise CheckpointError(f"{what} cannot be read: {_files.reason(error)}") from error
    return Foreign(what, found.tree, found.read)


def _check_no_step(path: Path, step: Any) -> None:
    if step != "latest":
        raise ValueError(f"{str(path)!r} has no steps: leave out step={step!r}.")


def _of_file(path: Path) -> Foreign:
    with path.open("rb") as stream:
        head = stream.read(9)
    name = repr(str(path))
    if path.name.endswith(".json"):
        return Foreign(f"the safetensors index {name}", _nested(_of_index(path), "."))
    if head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < path.stat().st_size:
        return Foreign(f"the safetensors file {name}", _nested(_safetensors(path), "."))
    if path.suffix == ".safetensors":
        raise CheckpointError(f"the safetensors file {name} cannot be read: it has no header")
    if path.suffix in _REMEDIES:
        raise _refused(path)
    if head[:4] == b"PK\3\4":
        return Foreign(f"the .npz file {name}", _nested(_npz(path), "/"))
    if head[:1] in _MSGPACK_MAPS and not _is_pickle(head):
        return Foreign(f"the msgpack file {name}", _msgpack(path))
    raise _refused(path)


# What a map begins with: of few entries, of many, of more.
_MSGPACK_MAPS = frozenset(bytes([first]) for first in (*range(0x80, 0x90), 0xDE, 0xDF))


def _is_pickle(head: bytes) -> bool:
    return head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")


def _refused(path: Path) -> CheckpointError:
    remedy = _REMEDIES.get(path.suffix)
    program = "a pickle, which is a program, " if path.suffix in _PROGRAMS else "none of these "
    return CheckpointError(
        f"{str(path)!r} is {program}and is not read{f': {remedy}' if remedy else ''}. {ACCEPTED}"
    )


def _of_index(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of several files, of which an index says which has which."""
    try:
        files = json.loads(path.read_bytes())["weight_map"]
        if odd := sorted(file for file in files.values() if Path(file).name != file):
            raise ValueError(f"it names files elsewhere: {odd}")
        by_file = {path.parent / file for file in files.values()}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CheckpointError(
            f"{str(path)!r} is no index of safetensors files: {_files.reason(error)}"
        ) from error
    if lost := sorted(file.name for file in by_file if not file.is_file()):
        raise CheckpointError(f"{str(path)!r} names files that are not there: {lost}")
    found = {file.name: _safetensors(file) for file in by_file}
    if lost := sorted(name for name, file in files.items() if name not in found[file]):
        raise CheckpointError(f"{str(path)!r} names arrays that are not in their files: {lost}")
    return {name: found[file][name] for name, file in files.items()}


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    """Map the arrays of a file: a part is read when it is used, and no more.

    Source:
        https://huggingface.co/docs/safetensors#format
    """
    raw = np.memmap(path, np.uint8, "r")
    try:
        start = 8 + int(raw[:8].view("<u8")[0])
        if start > min(len(raw), _HEADER_BYTES):
            raise ValueError(f"its header has {start} bytes")
        header = json.loads(bytes(raw[8:start]))
        entries = {name: about for name, about in header.items() if name != "__metadata__"}
        return {name: _entry(raw[start:], name, **about) for name, about in entries.items()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the safetensors file {str(path)!r} cannot be read: {_files.reason(error)}"
        ) from error


def _entry(
    data: np.ndarray, name: str, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    if dtype not in _DTYPES:
        raise ValueError(f"array {name[:200]!r} is of dtype {dtype!r}, of {sorted(_DTYPES)}")
    start, end = data_offsets
    size = math.prod(shape) * _DTYPES[dtype].itemsize
    if not (0 <= start <= end <= len(data) and end - start == size and min(shape, default=0) >= 0):
        raise ValueError(f"array {name[:200]!r} of shape {shape} cannot lie at {data_offsets}")
    return np.asarray(data[start:end]).view(_DTYPES[dtype]).reshape(shape)


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if odd := [name for name in file.zip.namelist() if not name.endswith(".npy")]:
                raise ValueError(f"it holds {odd[0]!r}, which is no array")
            return dict(file)
    except Exception as error:  # of zipfile, zlib and NumPy
        raise CheckpointError(
            f"the .npz file {str(path)!r} cannot be read: {_files.reason(error)}"
        ) from error


def _msgpack(path: Path) -> Any:
    import flax.serialization

    try:
        return flax.serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # of msgpack and NumPy
        raise CheckpointError(
            f"{str(path)!r} cannot be read as Flax's msgpack: {_files.reason(error)}. {ACCEPTED}"
        ) from error
