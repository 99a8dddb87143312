"""What a run is called elsewhere, kept in its directory."""

from __future__ import annotations

from collections.abc import Callable

from odyssey_jax.writers._writer import RunInfo


def kept_id(run: RunInfo, name: str, make: Callable[[], str]) -> str:
    """The name in a file of the run's directory; a run that begins is given a new one.

    Example:
        >>> kept_id(RunInfo(None, 10, []), "id", lambda: "abc")
        'abc'
    """
    if run.directory is None:
        return make()
    file = run.directory / name
    if run.step > 0 and file.exists():
        return file.read_text(encoding="utf-8").strip()
    run.directory.mkdir(parents=True, exist_ok=True)
    file.write_text(made := make(), encoding="utf-8")
    return made
