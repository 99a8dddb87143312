"""States of iterators as JSON, without pickle: what JSON lacks is tagged."""

from __future__ import annotations

import base64
import sys
from typing import Any

import numpy as np

_TAG = "$"


def to_json(x: Any, name: str) -> Any:
    """Return a state as JSON; tuples, bytes, arrays and torch's tensors are tagged.

    Args:
        x: The state.
        name: What errors call it.

    Raises:
        TypeError: If something in it is none of these.
    """
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    if isinstance(x, (np.bool_, np.integer, np.floating)):
        return x.item()
    if isinstance(x, dict):
        items = {key: to_json(value, f"{name}[{key!r}]") for key, value in x.items()}
        if all(isinstance(key, str) for key in items) and _TAG not in items:
            return items
        pairs = [[to_json(key, name), value] for key, value in items.items()]
        return {_TAG: "dict", "items": pairs}
    if isinstance(x, (list, tuple)):
        items = [to_json(value, f"{name}[{i}]") for i, value in enumerate(x)]
        return items if isinstance(x, list) else {_TAG: "tuple", "items": items}
    if isinstance(x, bytes):
        return {_TAG: "bytes", "base64": base64.b64encode(x).decode()}
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return {_TAG: "tensor", "array": to_json(x.detach().cpu().numpy(), name)}
    if isinstance(x, np.ndarray) and not x.dtype.hasobject:
        data = base64.b64encode(x.tobytes()).decode()
        return {_TAG: "array", "dtype": x.dtype.str, "shape": list(x.shape), "base64": data}
    raise TypeError(
        f"{name} is a {type(x).__name__}, which can't be saved as JSON: have state_dict() of the "
        "data set or the sampler return numbers, strings, bytes, arrays, and lists and dicts of "
        "these."
    )


def from_json(x: Any) -> Any:
    """Return the state that `to_json` was given."""
    if isinstance(x, list):
        return [from_json(value) for value in x]
    if not isinstance(x, dict):
        return x
    match x.get(_TAG):
        case None:
            return {key: from_json(value) for key, value in x.items()}
        case "dict":
            return {from_json(key): from_json(value) for key, value in x["items"]}
        case "tuple":
            return tuple(from_json(value) for value in x["items"])
        case "bytes":
            return base64.b64decode(x["base64"])
        case "array":
            data = np.frombuffer(base64.b64decode(x["base64"]), np.dtype(x["dtype"]))
            return data.reshape(x["shape"]).copy()
        case "tensor":
            return sys.modules["torch"].from_numpy(from_json(x["array"]))
        case tag:
            raise ValueError(f"a saved state has the unknown tag {tag!r}.")
