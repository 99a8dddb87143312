"""JAX's persistent compilation cache, turned on."""

from __future__ import annotations

import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def enable_compilation_cache(directory: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled programs on the disk, so that the next process need not compile them.

    The setting is JAX's, and of the whole process: call it once, at the program's beginning. A
    library should leave it to the program. A program is found again for the same code, shapes,
    devices and version of JAX; the directory grows, and may be deleted at any time.

    Args:
        directory: Where they are kept; made where it is not there. None is that of
            `jax_compilation_cache_dir` (`JAX_COMPILATION_CACHE_DIR`) where it is set, else
            ``odyssey_jax`` in the user's cache: ``$XDG_CACHE_HOME``, or ``~/.cache``.

    Returns:
        The directory.

    Example:
        >>> import os, tempfile, odyssey_jax as ody
        >>> ody.enable_compilation_cache(tempfile.mkdtemp()).is_dir()
        True
    """
    found = directory or jax.config.jax_compilation_cache_dir  # pyright: ignore
    path = Path(found or default_directory()).expanduser().absolute()
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    # A run has many small programs, and they take most of a short run's start: keep them all.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()  # JAX decides once whether there is one
    return path


def default_directory() -> Path:
    """Return ``odyssey_jax`` in the user's cache; a relative ``$XDG_CACHE_HOME`` is ignored."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "odyssey_jax"
