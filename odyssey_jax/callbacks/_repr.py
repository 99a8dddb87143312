"""A callback as text: what it was made with, and no more."""

from __future__ import annotations

import dataclasses
from typing import Any


class ShortRepr:
    """A dataclass whose repr leaves out the options that are as they are by default.

    A run that is resumed compares its callbacks with those in the checkpoint by their repr: so an
    option that a later version adds is no difference where it is not used.
    """

    def __repr__(self) -> str:
        fields: Any = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        values = [(field, getattr(self, field.name)) for field in fields]
        given = [f"{field.name}={value!r}" for field, value in values if value != field.default]
        return f"{type(self).__name__}({', '.join(given)})"
