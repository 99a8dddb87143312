"""Batches of one shape from ragged ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from odyssey_jax._checks import check_count
from odyssey_jax.data._leaves import as_array


def pad_to(
    batch: Mapping[str, Any],
    shape: int | Sequence[int],
    *,
    value: Any = 0,
    mask: str = "mask",
) -> dict[str, Any]:
    """Pad a batch's arrays to one shape, and add a mask of what is no padding.

    A loss that gives the mask on among its outputs, under the name "mask", has it heeded by the
    metrics and as the batch's weight; the mean that it returns is for itself to mask.

    Args:
        batch: Dict of arrays [examples, ...], of which the leading axes may be too short. An
            array of dtype object, or a list, is of arrays of different lengths, one an example.
        shape: Sizes of the leading axes: `8` is examples, `(8, 128)` examples and their
            positions. An array of fewer axes is padded along those that it has.
        value: What arrays are padded with, a number or a dict of one for each name.
        mask: The name of the mask.

    Returns:
        Dict of NumPy arrays, with the mask, bool of `shape`: False for padding.

    Raises:
        ValueError: If the batch is no dict, has a mask already, or is larger than `shape`, or
            its arrays differ in what is padded.

    Example:
        >>> import numpy as np, odyssey_jax as ody
        >>> batch = {"tokens": [np.array([5, 6, 7]), np.array([8])], "label": np.array([1, 0])}
        >>> padded = ody.pad_to(batch, (3, 4))
        >>> padded["tokens"].tolist()
        [[5, 6, 7, 0], [8, 0, 0, 0], [0, 0, 0, 0]]
        >>> padded["label"].tolist(), padded["mask"].sum(axis=1).tolist()
        ([1, 0, 0], [3, 1, 0])
    """
    sizes = _checked_shape(shape)
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"batch must be a dict, which a mask can be added to, got a {type(batch).__name__}."
        )
    if mask in batch:
        raise ValueError(f"the batch has {mask!r} already: call the mask another, as in mask='m'.")
    fill = lambda name: value.get(name, 0) if isinstance(value, Mapping) else value
    found = {name: _padded(f"batch[{name!r}]", x, sizes, fill(name)) for name, x in batch.items()}
    lengths = {name: len(x) for name, x in batch.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the arrays differ in their number of examples: {lengths}.")
    # Arrays of fewer axes are padded alike, as far as they go.
    masks = {name: present for name, (_, present) in found.items() if present.ndim == len(sizes)}
    if not masks:
        raise ValueError(f"shape={shape!r} has {len(sizes)} axes, and no array of the batch has.")
    first = next(iter(masks))
    for name, present in masks.items():
        if not np.array_equal(present, masks[first]):
            raise ValueError(
                f"batch[{first!r}] and batch[{name!r}] differ in what is to be padded, and there "
                "is one mask: pad them by two calls, each with a mask of its own."
            )
    return {**{name: x for name, (x, _) in found.items()}, mask: masks[first]}


def _checked_shape(shape: Any) -> tuple[int, ...]:
    sizes = shape if isinstance(shape, Sequence) and shape else (shape,)
    return tuple(check_count("shape", size, 1) for size in sizes)


def _padded(name: str, x: Any, sizes: tuple[int, ...], fill: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return an array with its leading axes padded, and which of them is no padding."""
    if isinstance(x, list) or (isinstance(x, np.ndarray) and x.dtype.hasobject):
        x, present = _stacked(name, list(x), sizes, fill)
    else:
        x = np.asarray(as_array(name, x))
        present = np.ones(x.shape[: len(sizes)], bool)
    widths = [(0, size - n) for n, size in zip(present.shape, sizes, strict=False)]
    if any(after < 0 for _, after in widths):
        raise ValueError(
            f"{name} has shape {list(x.shape)}, which is larger than {list(sizes)}: raise the "
            "size, or cut it before."
        )
    beyond = [(0, 0)] * (x.ndim - len(widths))
    return np.pad(x, [*widths, *beyond], constant_values=fill), np.pad(present, widths)


def _stacked(
    name: str, rows: list[Any], sizes: tuple[int, ...], fill: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays of the examples as one, padded, and which of it is no padding."""
    arrays = [as_array(f"{name}[{i}]", x) for i, x in enumerate(rows)]
    if len(sizes) == 1 and len({x.shape for x in arrays}) > 1:
        raise ValueError(
            f"{name} is of arrays of different lengths: give shape=(examples, length), got "
            f"{sizes[0]}."
        )
    dtype = np.result_type(*(x for x in arrays if x.size)) if any(x.size for x in arrays) else int
    padded = [
        _padded(f"{name}[{i}]", np.asarray(x, dtype), sizes[1:], fill) for i, x in enumerate(arrays)
    ]
    return np.stack([x for x, _ in padded]), np.stack([present for _, present in padded])
