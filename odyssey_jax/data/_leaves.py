"""The leaves of data: made arrays without a copy, or refused by their path."""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._types import PyTree


def map_leaves(name: str, function: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    """Return the tree with `function(path, leaf)` in place of each leaf; None is a leaf too."""
    # An iterator is no pytree: JAX is about to refuse it.
    is_leaf = lambda x: x is None or isinstance(x, Iterator)
    try:
        return jax.tree.map(lambda x: function(name, x), tree, is_leaf=is_leaf)
    except ValueError:  # again, with the paths, which would cost each batch as much as the rest
        named = lambda path, x: function(f"{name}{jax.tree_util.keystr(path)}", x)
        return jax.tree_util.tree_map_with_path(named, tree, is_leaf=is_leaf)


def is_array(x: Any) -> bool:
    """Return whether x is an array, of whatever library: also one that is read in pieces."""
    return all(hasattr(x, name) for name in ("shape", "dtype", "__getitem__"))


def is_read_in_pieces(x: Any) -> bool:
    """Return whether x is an array of which parts are read: h5py's, Zarr's, TensorStore's."""
    # Tensors have a method `numpy`; columns of tables have `to_numpy`, and indices of their own.
    held = isinstance(x, (np.ndarray, np.generic, jax.Array))
    return is_array(x) and not (held or hasattr(x, "numpy") or hasattr(x, "to_numpy"))


def dtype_of(x: Any) -> np.dtype:
    """Return the dtype of an array, as NumPy's: TensorStore has dtypes of its own."""
    return np.dtype(getattr(x.dtype, "numpy_dtype", x.dtype))


def as_array(name: str, x: Any) -> Any:
    """Return a leaf as an array of numbers, NumPy's or JAX's, without a copy where there is one.

    Raises:
        ValueError: If it is None, or no array of numbers or bools.
    """
    if isinstance(x, jax.Array):
        return x
    if x is None:
        raise ValueError(f"{name} is None: leave it out, or give an array [examples, ...].")
    try:
        x = _from_torch(x) if _is_tensor(x) else np.asarray(x)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}.") from error
    is_text = x.dtype.hasobject and x.size and isinstance(x.flat[0], (str, bytes))
    check_dtype(name, x.dtype, _TEXT if is_text else None)
    return x


def check_dtype(name: str, dtype: np.dtype, remedy: str | None = None) -> None:
    """Raise ValueError, with the remedy, unless a dtype is of numbers or bools."""
    if not (jnp.issubdtype(dtype, jnp.number) or dtype.kind == "b"):
        remedy = remedy or _REMEDIES.get(dtype.kind, _ELSE)
        raise ValueError(
            f"{name} must be an array of numbers or bools, got dtype {dtype}: {remedy}."
        )


_TEXT = "encode text as integers, such as token ids or np.unique(labels, return_inverse=True)[1]"
_TIME = "make times numbers, such as x.astype('datetime64[s]').astype(np.int64) less the first"
_ELSE = (
    "stack it into an array of one numeric dtype (ody.pad_to pads arrays of different lengths), "
    "or leave it out"
)
_REMEDIES = {"U": _TEXT, "S": _TEXT, "T": _TEXT, "M": _TIME, "m": _TIME}


def _is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _from_torch(x: Any) -> np.ndarray:
    torch = sys.modules["torch"]
    x = x.detach()
    if x.dtype == torch.bfloat16:  # NumPy has none of its own
        return x.view(torch.int16).numpy().view(jnp.bfloat16)
    return x.numpy()


def on_device_dtype(name: str, x: Any) -> Any:
    """Return an array in the dtype that JAX keeps of it: 32 bits, unless x64 is enabled.

    Raises:
        ValueError: If it holds integers that JAX would wrap.
    """
    kept = jax.dtypes.canonicalize_dtype(x.dtype)
    if isinstance(x, jax.Array) or kept == x.dtype:
        return x
    if jnp.issubdtype(x.dtype, jnp.integer) and x.size:
        bounds = jnp.iinfo(kept)
        for value in (x.min(), x.max()):
            if not bounds.min <= int(value) <= bounds.max:
                raise ValueError(
                    f"{name} holds {int(value)}, as {x.dtype}, which JAX would wrap to {kept}: "
                    "make the numbers smaller (an index in place of an id, two columns of 32 "
                    "bits), or enable 64 bits with jax.config.update('jax_enable_x64', True)."
                )
    return x.astype(kept)


def batch_of(name: str, batch: PyTree) -> PyTree:
    """Return a batch with arrays for leaves, in dtypes that JAX keeps; refuse others by path."""

    def convert(path: str, x: Any) -> Any:
        if isinstance(x, Mapping):  # such as the BatchEncoding of transformers
            return map_leaves(path, convert, dict(x))
        x = as_array(path, x)
        if not x.shape:
            raise ValueError(
                f"{path} is {x!r} and no array [batch, ...]: a source gives batches, not "
                "examples. Batch it (Grain: .batch(32); torch: DataLoader(..., batch_size=32)), "
                "and have lists converted to arrays (Hugging Face: .with_format('numpy'))."
            )
        return on_device_dtype(path, x)

    return map_leaves(name, convert, batch)


def forms_of(name: str, batch: PyTree) -> PyTree:
    """Return the shapes and dtypes of a batch; raise ValueError unless its arrays are as long."""
    check_lengths(name, batch)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)


def length_of(tree: PyTree) -> int:
    """Return the number of examples of the first array."""
    return jax.tree.leaves(tree)[0].shape[0]


def check_lengths(name: str, data: PyTree) -> None:
    """Raise ValueError unless there are arrays, of one length."""
    leaves = jax.tree_util.tree_leaves_with_path(data)
    shapes = {jax.tree_util.keystr(path) or name: tuple(x.shape) for path, x in leaves}
    if not shapes or any(not shape for shape in shapes.values()):
        shown = dict(itertools.islice(shapes.items(), 3))
        more = f", and {len(shapes) - 3} more" if len(shapes) > 3 else ""
        raise ValueError(f"{name} must hold arrays [examples, ...], got shapes {shown}{more}.")
    lengths = {name: shape[0] for name, shape in shapes.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the arrays differ in their number of examples: {lengths}.")


def check_batch_size(size: Any, examples: int, count: int = 1) -> int:
    """Return the batch size as an int; raise ValueError unless the examples fill a batch.

    Args:
        size: The batch size, of each of the processes.
        examples: The number of examples, of all.
        count: The number of processes.
    """
    most = examples // count
    is_bool = isinstance(size, (bool, np.bool_))
    if is_bool or not hasattr(size, "__index__") or not 1 <= size <= most:
        each = f" over the {count} processes, {most}" if count > 1 else f", {examples}"
        raise ValueError(
            f"batch_size must be an integer from 1 to the number of examples{each}; got {size!r}."
        )
    return operator.index(size)


def shown(dataset: Any) -> str:
    """Return the `repr` of a data set of arrays, each as its dtype and shape."""
    options = [f"batch_size={dataset.batch_size!r}"]
    options += [f"{x}=True" for x in ("shuffle", "drop_remainder") if getattr(dataset, x)]
    if dataset.transform is not None:
        options.append(f"transform={dataset.transform!r}")
    arrays = jax.tree.map(_Form, dataset.data)
    return f"{type(dataset).__name__}({arrays!r}, {', '.join(options)})"


class _Form:
    """An array, which prints as its dtype and shape."""

    def __init__(self, x: Any) -> None:
        self.text = f"{dtype_of(x)}{list(x.shape)}" if is_array(x) else repr(x)

    def __repr__(self) -> str:
        return self.text
