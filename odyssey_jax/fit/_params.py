"""The parameters of a run, without its model, its optimizer or its callbacks."""

from __future__ import annotations

import functools
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from odyssey_jax._opt_state import Elsewhere, schedule_free_param
from odyssey_jax._types import Mode, PyTree, TrainState
from odyssey_jax.parallel import Placement, axis_names, check_placement
from odyssey_jax.runs import open_checkpoints
from odyssey_jax.store import (
    CheckpointError,
    CheckpointNotFoundError,
    Foreign,
    Reader,
    Transfer,
    as_directory,
    by_name,
    export,
    find_foreign,
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
    placement: Placement | None = None,
    subtree: str = "params",
    monitor: str | None = None,
    mode: Mode | None = None,
) -> PyTree:
    """Read the parameters that a run, or another library, has saved; nothing is changed.

    Without a target neither the optimizer nor the model's code is needed. With one, the
    parameters must be like it, except where a transfer says otherwise: so a run begins from
    another run's parameters. With a placement they come as it says, of a target or without one,
    and no device holds more than its part. On several processes each may call this, all of them
    or one.

    Of other libraries are read, and found by looking at what is there: plain Orbax checkpoints
    (of `StandardCheckpointer`, a `CheckpointManager`'s step, Orbax's v1), safetensors files and
    their index, Flax's msgpack (`flax.serialization.to_bytes`) and NumPy's `.npz`. A name such as
    "h.0.attn.weight" in safetensors, or "h/0/w" in `.npz`, is a path. Of them a leaf is found by
    its name alone, whatever kind of key it has. The layouts of Hugging Face's models are turned by
    `ody.store.from_huggingface`.

    A leaf that a placement, or a target's sharding, cuts is read by parts, of which a process reads
    those of its own devices: of a run (from `Store`'s `pack_below` on, 1 MiB), of Orbax and of
    safetensors. Read whole into host memory first, and put on the devices by parts, are msgpack and
    `.npz`, what a transfer converts, and a run that is evaluated elsewhere than it trains
    (schedule-free, lookahead, SAM). The latest and the best of a run are first verified, and so
    read as a whole; what is read in a bucket is downloaded, and of other libraries all.

    Args:
        directory: The run's directory, or that of its checkpoints; or another library's file, or
            the directory of one. A path, or the URL of a bucket.
        target: Parameters of the same structure, shapes and dtypes, arrays or
            `jax.ShapeDtypeStruct`, such as `nnx.state(model, nnx.Param)` or Linen's; None reads
            what is there.
        step: "latest", "best" by the metric that the run kept its checkpoints by, or a step, also
            one of a `CheckpointManager`.
        transfer: What is converted, renamed, initialized and ignored on the way to the target.
        placement: Where the parameters are put, as for `fit`, such as `ody.fully_sharded()`;
            patterns of `ody.sharded` are on the paths of what is returned, and annotations are
            those of the target, such as `nnx.state(model, nnx.Param)`. None puts them where the
            target's lie.
        subtree: "params", the parameters that `fit` returned: averaged, or the best epoch's,
            where it was told so, or where the optimizer is evaluated (schedule-free: to rounding);
            with `step="best"` those that were measured there, or restored by the same metric; of a
            task with `trainable=` all of them, trained and not. "model_state" is what the model
            itself updates, such as batch statistics, alike. Anything else is a node of the
            checkpoint by its path: "state/params" are the parameters as they were trained. In
            another library's file "params" is the node of that name, or all of it where there is
            none.
        monitor: The metric that says what is best; None is the run's.
        mode: Whether "min" or "max" of `monitor` is better; None is as the run kept its
            checkpoints by it, or as its name says.

    Returns:
        With a target a tree like it; without, dicts, lists and tuples of numpy arrays, or with a
        placement of jax arrays.

    Raises:
        TypeError: If the target is an NNX model, or the placement is none.
        ValueError: If a transfer has no target, `monitor` or `step` is given for a file that has no
            steps, or the placement does not go with what is there.
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
    nnx = sys.modules.get("flax.nnx")  # who has a module has imported it
    if nnx is not None and isinstance(target, nnx.Module):
        raise TypeError(
            f"target is a model, {type(target).__name__}: pass nnx.state(model, nnx.Param), or "
            "none, and put what is loaded into it by ody.update_model(model, params)."
        )
    if placement is not None:
        check_placement(placement)
    with find_foreign(as_directory(directory), step) as foreign:
        if foreign is None:
            source = _Saved.at(directory, step, subtree, monitor, mode)
        elif monitor is not None or mode is not None:
            raise ValueError(
                f"{os.fspath(directory)!r} has no metrics: leave out monitor= and mode=."
            )
        else:
            source = _Foreign(foreign, subtree)
        if target is None and placement is None:
            return source.load()
        if target is None:
            target, transfer = source.describe(), by_name(None)
        if placement is not None:
            target = _placed(target, placement, transfer)
        return source.restore(target, transfer)


def _without_variables(target: PyTree) -> PyTree:
    """Return a tree with the array of each `nnx.Variable`, whose path is then the parameter's."""
    nnx = sys.modules.get("flax.nnx")
    is_variable = lambda x: nnx is not None and isinstance(x, nnx.Variable)
    array = lambda x: x.get_value() if is_variable(x) else x
    return jax.tree.map(array, target, is_leaf=is_variable)


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
    saved = _Saved.at(directory, step, subtree, monitor, mode)
    return export(saved.load(), path, chosen, {"step": str(saved.step)})


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


def _placed(target: PyTree, placement: Placement, transfer: Transfer | None) -> PyTree:
    """Describe a target as a placement lays it out; what a transfer initializes is put there."""
    pairs = jax.tree_util.tree_leaves_with_path(_without_variables(target))
    leaves = {_name(path): leaf for path, leaf in pairs}
    placement = placement.of(lambda: axis_names((target, None)), lambda: (leaves, None))
    state = TrainState(leaves)
    shardings = placement.shardings(leaves, state) or dict.fromkeys(leaves)
    kept = [] if transfer is None else transfer.initialize

    def place(name: str, leaf: Any) -> Any:
        if not hasattr(leaf, "dtype"):  # a Python value
            return leaf
        if any(re.search(pattern, name) for pattern in kept):
            return placement.place({name: leaf}, state)[name]
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[name])

    placed = [place(*pair) for pair in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(target), placed)


class _Foreign(NamedTuple):
    """A node of another library's parameters."""

    found: Foreign
    subtree: str

    def load(self) -> PyTree:
        return self.found.load(self.subtree)

    def describe(self) -> PyTree:
        return self.found.describe(self.subtree)

    def restore(self, target: PyTree, transfer: Transfer | None) -> PyTree:
        return self.found.restore(target, transfer, self.subtree)[0]


_AVERAGE = "state/average/"


class _Saved(NamedTuple):
    """A node of a run's checkpoint.

    Attributes:
        reader: The run's checkpoints.
        step: The one that is read, which is verified.
        paths: Where the node is; the parameters that a task does not train are in another place.
        elsewhere: Where in the optimizer's state lies what the node is evaluated at.
    """

    reader: Reader
    step: int
    paths: Sequence[str]
    elsewhere: Sequence[Elsewhere] = ()

    @classmethod
    def at(
        cls,
        directory: str | os.PathLike[str],
        step: Step,
        subtree: str,
        monitor: str | None,
        mode: Mode | None,
    ) -> _Saved:
        """Find a node."""
        reader = _reader(directory, step, monitor, mode)
        if step == "latest":
            number = reader.latest(verify=True)
        elif step == "best":
            number = reader.best(verify=True)
        else:
            number = step
        if number is None:
            raise CheckpointNotFoundError(
                f"there is no checkpoint in {str(reader.directory)!r} with a metric that is a "
                "number"
            )
        paths = reader.metadata(number).get("paths") if subtree in RETURNED else None
        if paths is None:  # or a store of one's own, without `fit`
            return cls(reader, number, [subtree])
        # The best of a run that restores it may be in a later checkpoint alone.
        other = step == "best" and paths["monitor"] != reader.monitor
        found = paths["measured" if other else "result"]
        own = found[subtree]
        more = [found["untrained"]] if subtree == "params" and "untrained" in found else []
        # Before there was "elsewhere" there were pairs of "schedule_free".
        free = [("schedule_free", *pair) for pair in paths.get("schedule_free", [])]
        elsewhere = paths.get("elsewhere", free) if own == "state/params" else []
        return cls(reader, number, [own, *more], [Elsewhere(*one) for one in elsewhere])

    def load(self) -> PyTree:
        """Return what is there in arrays of NumPy's."""
        read = lambda path: self.reader.load(self.step, subtree=path).tree
        tree = self._united(read, lambda x, dtype: x.astype(dtype))
        for kind, part, path in self.elsewhere:
            free = kind == "schedule_free"
            held = read(f"{path}/z" if free else path)
            b1 = read(f"{path}/b1") if free else None
            leaves = jax.tree_util.tree_leaves_with_path(held)
            found = {"/".join(filter(None, (part, _name(at)))): x for at, x in leaves}

            def evaluated(at: Any, y: Any, found: Any = found, b1: Any = b1) -> Any:
                x = found.get(_name(at), y)
                return x if b1 is None or x is y else schedule_free_param(y, x, b1)

            tree = jax.tree_util.tree_map_with_path(evaluated, tree)
        return tree

    def describe(self) -> PyTree:
        """Return what is there with a `jax.ShapeDtypeStruct` for each array."""
        read = lambda path: self.reader.describe(self.step, subtree=path)
        return self._united(read, lambda x, dtype: x.update(dtype=dtype))

    def restore(self, target: PyTree, transfer: Transfer | None) -> PyTree:
        """Return a tree like the target."""
        found = self._restore(_without_variables(target), transfer)
        return jax.tree.unflatten(jax.tree.structure(target), jax.tree.leaves(found))

    def _restore(self, target: PyTree, transfer: Transfer | None) -> PyTree:
        if self.elsewhere:
            what = f"checkpoint {self.step} in {str(self.reader.directory)!r}"
            return Foreign(what, self.load()).restore(target, transfer, "")[0]
        how = {"transfer": transfer, "subtree": self.paths}
        if not self.paths[0].startswith(_AVERAGE):
            return self.reader.restore(target, self.step, **how).tree
        # An average is kept in at least 32 bits, and returned in the parameters' own.
        names = [leaf.name for leaf in self.reader.leaves(self.step)]
        own = {name.removeprefix(f"{path}/") for path in self.paths[1:] for name in names}
        wide = jax.tree_util.tree_map_with_path(
            lambda at, x: x if _name(at) in own else _wide(x), target
        )
        found = self.reader.restore(wide, self.step, **how).tree
        like = lambda x, like: x.astype(like.dtype) if hasattr(like, "dtype") else x
        return jax.tree.map(like, found, target)

    def _united(self, read: Callable[[str], Any], cast: Callable[[Any, Any], Any]) -> PyTree:
        """Read the paths as one tree; an average in the dtypes of what it is of, as `fit` does."""
        dtypes = {leaf.name: leaf.dtype for leaf in self.reader.leaves(self.step)}

        def one(path: str) -> Any:
            tree = read(path)
            if not path.startswith(_AVERAGE):
                return tree
            raw = "state/" + path.removeprefix(_AVERAGE)

            def as_trained(where: Any, x: Any) -> Any:
                dtype = dtypes[f"{raw}/{_name(where)}".rstrip("/")]
                return x if dtype.startswith("key<") else cast(x, jnp.dtype(dtype))

            return jax.tree_util.tree_map_with_path(as_trained, tree)

        return functools.reduce(_as_one, map(one, self.paths))


def _as_one(one: Any, other: Any) -> Any:
    """Return two trees that have different leaves of one tree as that tree."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _as_one(one.get(key), other.get(key)) for key in {**one, **other}}
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return type(one)(itertools.starmap(_as_one, zip(one, other, strict=True)))
    return other if one is None else one


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _wide(x: Any) -> Any:
    """Return a leaf in at least 32 bits, the same kind of array and placed alike."""
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if dtype == x.dtype:
        return x
    return x.update(dtype=dtype) if isinstance(x, jax.ShapeDtypeStruct) else x.astype(dtype)


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
