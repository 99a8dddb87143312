"""Arrays as a file of the safetensors format, which PyTorch, Flax, MLX and others read."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from odyssey_jax.store._errors import CheckpointError

# numpy's name of a dtype -> the format's.
_NAMES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
}
_METADATA = "__metadata__"


def write_safetensors(
    file: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes arrays into one file.

    A length of eight bytes, a JSON header of that length with each array's dtype, shape and
    place, and the arrays' bytes in little-endian order one after the other.

    Args:
        file: Where to.
        arrays: Name -> array.
        metadata: Words about them, in the header.

    Raises:
        CheckpointError: The format has no name for an array's dtype, or takes its name for
            itself.

    Source:
        https://huggingface.co/docs/safetensors#format
    """
    header: dict[str, object] = {_METADATA: dict(metadata)}
    end = 0
    for name, array in arrays.items():
        if array.dtype.name not in _NAMES or name == _METADATA:
            raise CheckpointError(
                f"leaf {name!r} of dtype {array.dtype.name} has no place in a safetensors file, "
                f"which holds {', '.join(_NAMES)}; export it with format='orbax'"
            )
        start, end = end, end + array.nbytes
        shape = list(array.shape)
        dtype = _NAMES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays begin at a multiple of 8 bytes
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            stream.write(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
