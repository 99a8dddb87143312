"""The objects of a bucket: the one place that calls fsspec."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from odyssey_jax._text import missing
from odyssey_jax.store._errors import CheckpointError, CheckpointWriteError
from odyssey_jax.store._files import local_directory

Result = TypeVar("Result")

# Scheme of a URL -> the package that knows it, beside fsspec. `memory` is for tests: it lives and
# dies with the process.
SCHEMES: Mapping[str, str] = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}

_URL = re.compile(r"([a-z0-9]+)://([^/?#]+(?:/[^?#]*)?)")
# s3fs makes 5 attempts of its own, and botocore as many in each of them: minutes.
_OPTIONS: Mapping[str, Any] = {"s3": {"config_kwargs": {"retries": {"max_attempts": 1}}}}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # of 2 letters at least: C:/ is a drive
_ATTEMPTS = 3  # beside those that the packages make themselves
_PAUSE = 0.5  # seconds before the second attempt; then twice as long each time
_AT_ONCE = 16  # requests
_FINAL = (FileNotFoundError, PermissionError, NotImplementedError)  # another attempt is no use
_memory = threading.Lock()  # a real store's conditional put is atomic


class BucketPath(os.PathLike[str]):
    """The URL of a bucket, or of a prefix in it, where `fit` and `Store` take a path.

    Args:
        url: As ``"s3://bucket/run"``.

    Raises:
        ValueError: If the scheme is none of those that are known, or there is no bucket.

    Example:
        >>> path = BucketPath("s3://bucket/runs/") / "first"
        >>> str(path), path.name
        ('s3://bucket/runs/first', 'first')
        >>> BucketPath("hdfs://host/run")
        Traceback (most recent call last):
        ValueError: 'hdfs://host/run' is no URL of a bucket; ...
    """

    def __init__(self, url: str) -> None:
        found = _URL.fullmatch(url)
        parts = [] if found is None else found[2].rstrip("/").split("/")
        if found is None or found[1] not in SCHEMES or not {"", ".", ".."}.isdisjoint(parts):
            raise ValueError(f"{url!r} is no URL of a bucket; accepted are {accepted()}.")
        self._url = f"{found[1]}://{'/'.join(parts)}"

    @property
    def scheme(self) -> str:
        """What precedes the colon."""
        return self._url.partition(":")[0]

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self._url.rpartition("/")[2]

    @property
    def is_remote(self) -> bool:
        """True: it is on no file system."""
        return True

    def __truediv__(self, name: str) -> BucketPath:
        return BucketPath(f"{self._url}/{name}")

    def relative_to(self, other: str | os.PathLike[str]) -> str:
        """Return what follows another URL in this one; ``"."`` if they are one."""
        return self._url.removeprefix(f"{other}".rstrip("/")).lstrip("/") or "."

    def is_dir(self) -> bool:
        """Return whether there is an object below it."""
        return bool(Objects(self).entries())

    def __str__(self) -> str:
        return self._url

    def __fspath__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"BucketPath({self._url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and self._url == other._url

    def __lt__(self, other: BucketPath) -> bool:
        return self._url < other._url

    def __hash__(self) -> int:
        return hash(self._url)


def accepted() -> str:
    """Return in words which URLs of buckets are taken."""
    return (
        "gs://bucket/run and s3://bucket/run, which need pip install 'odyssey-jax[buckets]', and "
        "memory://name for tests"
    )


def _filesystem(path: BucketPath) -> Any:
    package = SCHEMES[path.scheme]
    try:
        import fsspec

        return fsspec.filesystem(
            path.scheme, use_listings_cache=False, **_OPTIONS.get(path.scheme, {})
        )
    except ImportError as error:
        raise missing(package, "buckets") from error


class Objects:
    """The objects below a URL, by their names relative to it.

    An answer that is an error is asked for again, up to 3 times in all (`_ATTEMPTS`). What is
    raised then is a `CheckpointError`, or FileNotFoundError where there is no such object.

    Args:
        path: The URL.

    Example:
        >>> objects = Objects(BucketPath("memory://doctest/objects"))
        >>> objects.create("a", b"1"), objects.create("a", b"2"), objects.read("a")
        (True, False, b'1')
        >>> objects.delete(["a"])
        >>> objects.sizes()
        {}
    """

    def __init__(self, path: BucketPath) -> None:
        self.path = path
        self._fs = _filesystem(path)
        self._root = self._fs._strip_protocol(str(path)).rstrip("/")

    def entries(self) -> dict[str, bool]:
        """List what lies directly below: name -> whether more lies below that."""

        def list_them() -> dict[str, bool]:
            try:
                found = self._fs.ls(self._root, detail=True, refresh=True)
            except FileNotFoundError:
                return {}
            rows = {self._name(row["name"]): row["type"] == "directory" for row in found}
            return {name: folder for name, folder in rows.items() if name}

        return self._try("listed", "", list_them)

    def sizes(self, below: str = "") -> dict[str, int]:
        """List all objects below a name: name -> length in bytes."""

        def find() -> dict[str, int]:
            try:
                found = self._fs.find(self._at(below), detail=True)
            except FileNotFoundError:
                return {}
            return {self._name(path): int(row["size"] or 0) for path, row in found.items()}

        return self._try("listed", below, find)

    def read(self, name: str, most: int = 2**20) -> bytes:
        """Read an object, or as much of it as `most` bytes."""
        read = lambda: self._fs.cat_file(self._at(name), start=0, end=most)
        return self._try("read", name, read)

    def write(self, name: str, content: bytes) -> None:
        """Write a small object, in place of what has its name."""
        self._try("written", name, lambda: self._fs.pipe_file(self._at(name), content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a small object if there is none of its name: a conditional put.

        Returns:
            Whether it is there, with this content, by this call.
        """

        def put() -> bool:
            try:
                with _memory:
                    self._fs.pipe_file(self._at(name), content, mode="create")
                return True
            except Exception as error:
                if not _exists(error):
                    raise
                # It may be ours, by an attempt whose answer was lost.
                return self._fs.cat_file(self._at(name)) == content

        return self._try("written", name, put)

    def upload(self, files: Mapping[str, Path]) -> None:
        """Write files as objects, none of which may be there; name -> file."""

        def put(name: str, file: Path) -> None:
            try:
                self._fs.put_file(str(file), self._at(name), mode="create")
            except Exception as error:
                if not _exists(error):
                    raise
                if self._fs.cat_file(self._at(name)) != file.read_bytes():
                    raise CheckpointError(
                        f"{self.path}/{name} is there already, by another program"
                    ) from error

        self._at_once(
            [lambda n=n, f=f: self._try("written", n, lambda: put(n, f)) for n, f in files.items()]
        )

    def replace(self, name: str, file: Path) -> None:
        """Write a file as an object, in place of what has its name."""
        self._try("written", name, lambda: self._fs.put_file(str(file), self._at(name)))

    def download(self, files: Mapping[str, Path]) -> None:
        """Read objects into files; name -> file, whose directory is made."""

        def get(name: str, file: Path) -> None:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._fs.get_file(self._at(name), str(file))
            except BaseException:
                file.unlink(missing_ok=True)  # a part of it would be taken for damage
                raise

        self._at_once(
            [lambda n=n, f=f: self._try("read", n, lambda: get(n, f)) for n, f in files.items()]
        )

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; what is not there is gone already."""

        def delete(name: str) -> None:
            try:
                self._fs.rm_file(self._at(name))
            except (FileNotFoundError, KeyError):
                return

        self._at_once([lambda n=n: self._try("deleted", n, lambda: delete(n)) for n in names])

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _name(self, path: str) -> str:
        path = self._fs._strip_protocol(path).rstrip("/")
        return path.removeprefix(self._root).lstrip("/")

    def _at_once(self, calls: list[Callable[[], Any]]) -> None:
        if calls:
            with ThreadPoolExecutor(min(len(calls), _AT_ONCE)) as pool:
                for done in [pool.submit(call) for call in calls]:
                    done.result()

    def _try(self, done: str, name: str, call: Callable[[], Result]) -> Result:
        for attempt in range(_ATTEMPTS):
            try:
                return call()
            except CheckpointError:
                raise
            except Exception as error:  # the packages have many kinds
                if isinstance(error, FileNotFoundError) and done == "read":
                    raise
                if attempt + 1 == _ATTEMPTS or isinstance(error, _FINAL):
                    raise self._failure(done, name, error) from error
            time.sleep(_PAUSE * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _failure(self, done: str, name: str, error: Exception) -> CheckpointError:
        where = f"{self.path}/{name}".rstrip("/")
        text = " ".join(str(error).split())[:300]
        kind = CheckpointWriteError if done in ("written", "deleted") else CheckpointError
        return kind(f"{where!r} could not be {done}: {type(error).__name__}: {text}")


def _exists(error: Exception) -> bool:
    """Return whether a conditional put was refused since there is such an object."""
    if isinstance(error, FileExistsError):
        return True
    # Of S3 servers but AWS's own s3fs makes an OSError of it.
    answer = getattr(error.__cause__, "response", None) or {}
    code = answer.get("Error", {}).get("Code")
    return code in ("PreconditionFailed", "412", "ConditionalRequestConflict")


def as_directory(directory: str | os.PathLike[str]) -> Path | BucketPath:
    """Return a directory as a path of this machine, or as the URL of a bucket.

    Args:
        directory: A path, a ``file:///`` URL, or a bucket's: ``gs://``, ``s3://`` or ``memory://``.

    Returns:
        The path, absolute, or the URL.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it is a URL of another kind.
        ImportError: If what the bucket needs is not installed.

    Example:
        >>> str(as_directory("memory://bucket/run/"))
        'memory://bucket/run'
        >>> as_directory("hdfs://host/run")
        Traceback (most recent call last):
        ValueError: directory must be a local path or the URL of a bucket, got 'hdfs://...
    """
    text = os.fspath(directory) if isinstance(directory, os.PathLike) else directory
    scheme = _SCHEME.match(text) if isinstance(text, str) else None
    if not isinstance(text, str) or scheme is None or scheme[1] == "file":
        return local_directory(directory)
    if scheme[1] not in SCHEMES or not text.startswith(f"{scheme[1]}://"):
        raise ValueError(
            f"directory must be a local path or the URL of a bucket, got {text!r}; accepted are "
            f"paths, file:///path, {accepted()}."
        )
    path = BucketPath(text)
    _filesystem(path)
    return path
