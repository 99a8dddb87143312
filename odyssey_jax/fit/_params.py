"""The parameters of a run, without its model, its optimizer or its callbacks."""

from __future__ import annotations

import functools
import itertools
import os
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from odyssey_jax._types import Mode, PyTree
from odyssey_jax.runs import open_checkpoints
from odyssey_jax.store import (
    CheckpointError,
    CheckpointNotFoundError,
    Reader,
    Transfer,
    as_directory,
    export,
    open_foreign,
)

# What `fit` returned, wherever a checkpoint has it; any other subtree is a path.
RETURNED = ("params", "model_state")

ExportFormat = Literal["orbax", "safetensors"]

# What people call the parameters' files of one format or another.
_FILES = {
    *(".safetensors", ".npy", ".npz", ".pt", ".pth", ".bin", ".h5", ".hdf5", ".keras", ".msgpack"),
    *(".pkl", ".pickle", ".onnx", ".gguf", ".json", ".zip", ".tar"),
}

Step = Literal["latest", "best"] | int


def load_params(
    directory: str | os.PathLike[str],
    target: PyTree | None = None,
    step: Step = "latest",
    *,
    transfer: Transfer | None = None,
    subtree: str = "params",
    monitor: str | None = None,
    mode: Mode | None = None,
) -> PyTree:
    """Read the parameters that a run, or another library, has saved; nothing is changed.

    Without a target neither the optimizer nor the model's code is needed. With one, the
    parameters must be like it, except where a transfer says otherwise: so a run begins from
    another run's parameters. On several processes each may call this, all of them or one.

    Of other libraries are read, and found by looking at what is there: plain Orbax checkpoints
    (of `StandardCheckpointer`, a `CheckpointManager`'s step, Orbax's v1), safetensors files and
    their index, Flax's msgpack (`flax.serialization.to_bytes`) and NumPy's `.npz`. A name such as
    "h.0.attn.weight" in safetensors, or "h/0/w" in `.npz`, is a path. Of them a leaf is found by
    its name alone, whatever kind of key it has; a target's shardings say what is read where. The
    layouts of Hugging Face's models are turned by `ody.store.from_huggingface`.

    Args:
        directory: The run's directory, or that of its checkpoints; or another library's file, or
            the directory of one.
        target: Parameters of the same structure, shapes and dtypes, arrays or
            `jax.ShapeDtypeStruct`; None reads what is there.
        step: "latest", "best" by the metric that the run kept its checkpoints by, or a step, also
            one of a `CheckpointManager`.
        transfer: What is converted, renamed, initialized and ignored on the way to the target.
        subtree: "params", the parameters that `fit` returned: averaged, or the best epoch's,
            where it was told so; with `step="best"` those that were measured there, or restored by
            the same metric; of a task with `trainable=` all of them, trained and not. "model_state"
            is what the model itself updates, such as batch statistics, alike. Anything else is a
            node of the checkpoint by its path: "state/params" are the parameters as they were
            trained. In another library's file "params" is the node of that name, or all of it where
            there is none.
        monitor: The metric that says what is best; None is the run's.
        mode: Whether "min" or "max" of `monitor` is better; None is as the run kept its
            checkpoints by it, or as its name says.

    Returns:
        With a target a tree like it; without, dicts, lists and tuples of numpy arrays.

    Raises:
        ValueError: If a transfer has no target, or `monitor` or `step` is given for a file that has
            no steps.
        CheckpointError: If there is no such checkpoint or subtree, it can't be read, it is of a
            kind that is not read, or it is not like the target.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> from flax import nnx
        >>> def loss_fn(model, x):
        ...     return (model(x) ** 2).mean()
        >>> model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        >>> data = ody.ArrayDataset(jnp.ones((8, 3)), batch_size=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = ody.fit(ody.nnx_task(model, loss_fn), optax.adam(1e-2), data, epochs=1,
        ...                   directory=folder, writers=[])
        ...     params = ody.load_params(folder)
        >>> params["kernel"].shape
        (3, 1)
        >>> nnx.update(model, params)  # the parameters in a model, to train on or to use
        >>> bool((model.kernel[...] == run.model.kernel[...]).all())
        True
    """
    if target is None and transfer is not None:
        raise ValueError("a transfer needs a target: pass the parameters to restore into.")
    path = as_directory(directory)
    # Other libraries' files are read from this machine alone.
    foreign = open_foreign(path, step) if isinstance(path, Path) else None
    if foreign is not None:
        if monitor is not None or mode is not None:
            raise ValueError(f"{str(path)!r} has no metrics: leave out monitor= and mode=.")
        if target is None:
            return foreign.load(subtree)
        return foreign.restore(target, transfer, subtree)[0]
    reader = _reader(directory, step, monitor, mode)
    number, paths = _where(reader, step, subtree)
    if target is None:
        return _loaded(reader, number, paths)
    if not paths[0].startswith(_AVERAGE):
        return reader.restore(target, number, transfer=transfer, subtree=paths).tree
    # An average is kept in at least 32 bits, and returned in the parameters' own.
    names = [leaf.name for leaf in reader.leaves(number)]
    own = {name.removeprefix(f"{path}/") for path in paths[1:] for name in names}
    wide = jax.tree_util.tree_map_with_path(
        lambda at, x: x if _name(at) in own else _wide(x), target
    )
    found = reader.restore(wide, number, transfer=transfer, subtree=paths).tree
    like = lambda x, like: x if x.dtype == like.dtype else x.astype(like.dtype)
    return jax.tree.map(like, found, target)


def export_params(
    directory: str | os.PathLike[str],
    path: str | os.PathLike[str],
    step: Step = "latest",
    *,
    format: ExportFormat | None = None,
    subtree: str = "params",
    monitor: str | None = None,
    mode: Mode | None = None,
) -> Path:
    """Write the parameters that a run has saved to a file for other tools.

    On several processes one of them calls this, when the run is saved; it waits for no other.

    Args:
        directory: The run's directory, or that of its checkpoints.
        path: Where to; nothing may be there.
        step: "latest", "best" by the metric that the run kept its checkpoints by, or a step.
        format: "orbax" for the directory of a plain Orbax checkpoint, which
            `orbax.checkpoint.StandardCheckpointer` reads alone; "safetensors" for one file, in
            which a parameter's name is its keys with "." between them. None is "safetensors"
            for a path that ends in ".safetensors", and else "orbax".
        subtree: The node of the checkpoint to write; "" is all of it.
        monitor: The metric that says what is best; None is the run's.
        mode: Whether "min" or "max" of `monitor` is better; None is as the run kept its
            checkpoints by it, or as its name says.

    Returns:
        The path, absolute.

    Raises:
        ValueError: If the suffix is that of another format.
        CheckpointError: If there is no such checkpoint or subtree, something is at the path
            already, the format can't hold what is there, or two parameters would have one name.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task({"w": jnp.ones(3)}, lambda p, x: ((p["w"] - x) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones((8, 3)), batch_size=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = ody.fit(task, optax.sgd(0.1), data, epochs=1, directory=folder, writers=[])
        ...     path = ody.export_params(folder, f"{folder}/model.safetensors")
        ...     path.name
        'model.safetensors'
    """
    chosen = _format(Path(path), format)
    reader = _reader(directory, step, monitor, mode)
    number, paths = _where(reader, step, subtree)
    return export(_loaded(reader, number, paths), path, chosen, {"step": str(number)})


def _format(path: Path, format: ExportFormat | None) -> ExportFormat:
    """Return the format that the suffix says, unless it is said otherwise."""
    suffix = path.suffix.lower()
    chosen = format or ("safetensors" if suffix == ".safetensors" else "orbax")
    if suffix in _FILES and suffix != f".{chosen}":
        what = "" if format is None else f" and not of format={format!r}"
        raise ValueError(
            f"{path.name!r} is the name of a {suffix} file{what}: written are files that end in "
            ".safetensors, and directories of Orbax without such a suffix."
        )
    return chosen


_AVERAGE = "state/average/"


def _where(reader: Reader, step: Step, subtree: str) -> tuple[int, list[str]]:
    """Return the step that is read, which is verified, and the paths of a subtree in it.

    The parameters that a task does not train are in a place of their own.
    """
    if step == "latest":
        number = reader.latest(verify=True)
    elif step == "best":
        number = reader.best(verify=True)
    else:
        number = step
    if number is None:
        raise CheckpointNotFoundError(
            f"there is no checkpoint in {str(reader.directory)!r} with a metric that is a number"
        )
    paths = reader.metadata(number).get("paths") if subtree in RETURNED else None
    if paths is None:  # or a store of one's own, without `fit`
        return number, [subtree]
    # The best of a run that restores it may be in a later checkpoint alone.
    other = step == "best" and paths["monitor"] != reader.monitor
    found = paths["measured" if other else "result"]
    more = [found["untrained"]] if subtree == "params" and "untrained" in found else []
    return number, [found[subtree], *more]


def _loaded(reader: Reader, step: int, paths: list[str]) -> PyTree:
    """Return what is at these paths, as one tree."""
    load = lambda path: _as_returned(reader, step, path, reader.load(step, subtree=path).tree)
    return functools.reduce(_united, map(load, paths))


def _united(one: Any, other: Any) -> Any:
    """Return two trees that have different leaves of one tree as that tree."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _united(one.get(key), other.get(key)) for key in {**one, **other}}
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return type(one)(itertools.starmap(_united, zip(one, other, strict=True)))
    return other if one is None else one


def _as_returned(reader: Reader, step: int, path: str, tree: PyTree) -> PyTree:
    """Return an average in the dtypes of the parameters that it is of, as `fit` returns it."""
    if not path.startswith(_AVERAGE):
        return tree
    raw = "state/" + path.removeprefix(_AVERAGE)
    dtypes = {leaf.name: leaf.dtype for leaf in reader.leaves(step)}

    def cast(where: Any, x: Any) -> Any:
        dtype = dtypes[f"{raw}/{_name(where)}".rstrip("/")]
        return x if dtype.startswith("key<") else x.astype(jnp.dtype(dtype))

    return jax.tree_util.tree_map_with_path(cast, tree)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _wide(x: Any) -> jax.ShapeDtypeStruct:
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    dtype = jnp.promote_types(x.dtype, jnp.float32) if floating else x.dtype
    return jax.ShapeDtypeStruct(x.shape, dtype)


def _reader(
    directory: str | os.PathLike[str], step: Step, monitor: str | None, mode: Mode | None
) -> Reader:
    """Open the checkpoints of a run, ranked by the run's metric where none is given."""
    reader = open_checkpoints(directory, monitor, mode if monitor else None)
    if step == "best" and reader.monitor is None:
        raise CheckpointError(
            f"the run in {str(directory)!r} did not keep its checkpoints by a metric: say which "
            "one is meant by the best, with monitor='valid/loss'"
        )
    return reader
