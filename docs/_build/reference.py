"""The reference: a page for every public room, with every public name of it, from the docstrings."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

# A room's page shows what its `__init__` exports; the top has what lives in no room of its own.
ROOMS = (
    "odyssey_jax",
    "schedules",
    "callbacks",
    "metrics",
    "data",
    "transforms",
    "train",
    "fit",
    "feed",
    "store",
    "writers",
    "plots",
    "runs",
    "errors",
    "testing",
    "parallel",
    "compat.torch",
    "compat.timm",
    "compat.transformers",
    "compat.keras",
)
TOP = ROOMS[0]


def rooms() -> tuple[str, ...]:
    """Return the rooms that have a page, in order."""
    return ROOMS


def module(room: str) -> ModuleType:
    """Return a room."""
    return importlib.import_module(TOP if room == TOP else f"{TOP}.{room}")


@functools.cache
def names(room: str) -> dict[str, Any]:
    """Return the public names of a room, in alphabetical order, classes first."""
    found = {
        name: value
        for name, value in vars(module(room)).items()
        if not name.startswith("_") and not inspect.ismodule(value) and _is_own(value)
    }
    return dict(sorted(found.items(), key=lambda item: (item[0].lower(), item[0])))


def _is_own(value: Any) -> bool:
    """Return whether a name is ours; a constant says not where it is from, and is no bool."""
    return getattr(value, "__module__", TOP).startswith(TOP) and not isinstance(value, bool)


@functools.cache
def home() -> dict[str, str]:
    """Return where each public object is documented: the id of its heading by `room.name`.

    What several rooms export is documented in the first of them that is not the top.
    """
    by_object: dict[int, str] = {}
    for room in (*ROOMS[1:], TOP):
        for name, value in names(room).items():
            by_object.setdefault(id(value), _identifier(room, name))
    return {
        f"{room}.{name}": by_object[id(value)] for room in ROOMS for name, value in names(room).items()
    }


def _identifier(room: str, name: str) -> str:
    if (room, name) == ("fit", "fit"):  # the room's own name: the function hides the module
        return f"{TOP}.fit._fit.fit"
    return f"{TOP}.{name}" if room == TOP else f"{TOP}.{room}.{name}"


@functools.cache
def _bare() -> dict[str, str]:
    """Return where the names are documented that mean one thing wherever they are public."""
    meanings: dict[str, set[str]] = {}
    for name, where in home().items():
        meanings.setdefault(name.rpartition(".")[2], set()).add(where)
    top = {name: home()[f"{TOP}.{name}"] for name in names(TOP)}
    return {name: min(where) for name, where in meanings.items() if len(where) == 1} | top


# Words that are names too, and arguments that a docstring means by them.
WORDS = {"at", "data", "sum", "real", "on", "log", "then", "clip", "scale", "shift", "repeat",
         "every", "mode", "metrics", "linear", "constant", "train", "valid", "checkpoint", "fraction",
         "loss_scale", "epochs", "tokens", "average", "update", "step", "task"}


def target(text: str, bare: bool) -> str | None:
    """Return the id of what is written as code, such as `ody.fit`; None if it is no public name."""
    first, _, rest = text.partition(".")
    if first in ("ody", TOP) and rest:
        return home().get(rest) or home().get(f"{TOP}.{rest}")
    if "." in text:
        return home().get(text)
    return _bare().get(text) if bare and text not in WORDS else None


def pages() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each page."""
    yield "reference/index.md", _index()
    for room in ROOMS:
        yield f"reference/{room}.md", _page(room)


def _summary(value: Any) -> str:
    return (inspect.getdoc(value) or "").partition("\n")[0].replace("|", "\\|")


def _written(room: str, name: str) -> str:
    return f"ody.{name}" if room == TOP else f"ody.{room}.{name}"


def _index() -> str:
    rows = [f"| `{_written(TOP, name)}` | {_summary(value)} |" for name, value in names(TOP).items()
            if callable(value)]
    rooms_ = [f"| [`ody.{room}`]({room}.md) | {_summary(module(room))} |" for room in ROOMS[1:]]
    return "\n".join([
        "# Reference", "",
        "Every public name, from its docstring. `import odyssey_jax as ody`.", "",
        "## The rooms", "", "| room | what is in it |", "|---|---|", *rooms_, "",
        "## At the top", "", "What most programs use.", "",
        "| name | what it is |", "|---|---|", *rows, "",
    ])


def _page(room: str) -> str:
    found = names(room)
    here = [n for n in found if home()[f"{room}.{n}"] == _identifier(room, n)]
    elsewhere = [n for n in found if n not in here]
    title = "odyssey_jax, at the top" if room == TOP else f"ody.{room}"
    lines = [f"# {title}", "", inspect.getdoc(module(room)) if room != "transforms" else "", ""]
    if elsewhere and room != TOP:
        lines += ["Also here: " + ", ".join(f"`{_written(room, n)}`" for n in elsewhere) + ".", ""]
    for name in here:
        lines += [f"::: {_identifier(room, name)}", "    options:",
                  f"      heading: {_written(room, name)}", f"      toc_label: \"{name}\"",
                  "      heading_level: 2", ""]
    return "\n".join(str(line) for line in lines)
