"""A Griffe extension: our docstrings, as mkdocstrings reads them."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe


# The first line of a section of what is returned, with a colon outside of code.
RETURNS = re.compile(r"^( *(?:Returns|Yields):\n[^`:\n]*(?:`[^`\n]*`[^`:\n]*)*):", flags=re.M)


class Docstrings(griffe.Extension):
    """Call examples by the name that Griffe knows; take no words before a colon for a type."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object once it is loaded."""
        del kwargs
        if obj.docstring is not None:
            if obj.is_function and obj.path.startswith("odyssey_jax.compat."):
                obj.docstring.value = _at_run_time(obj.path) or obj.docstring.value
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = RETURNS.sub(r"\1&#58;", text)


def _at_run_time(path: str) -> str | None:
    """Return the docstring of a scheduler of `compat`, to which a decorator adds the arguments."""
    module, _, name = path.rpartition(".")
    if any(part.startswith("_") for part in path.split(".")):
        return None
    return inspect.getdoc(getattr(importlib.import_module(module), name, None))
