"""A Griffe extension: our docstrings, as mkdocstrings reads them."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Call a section of examples by the name that Griffe knows."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object once it is loaded."""
        del kwargs
        if obj.docstring is not None:
            if obj.is_function and obj.path.startswith("odyssey_jax.compat."):
                obj.docstring.value = _at_run_time(obj.path) or obj.docstring.value
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = text


def _at_run_time(path: str) -> str | None:
    """Return the docstring of a scheduler of `compat`, to which a decorator adds the arguments."""
    module, _, name = path.rpartition(".")
    if any(part.startswith("_") for part in path.split(".")):
        return None
    return inspect.getdoc(getattr(importlib.import_module(module), name, None))
