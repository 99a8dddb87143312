"""The parameters of a run, without its model, its optimizer or its callbacks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from odyssey_jax._types import Mode, PyTree
from odyssey_jax.runs import open_checkpoints
from odyssey_jax.store import (
    CheckpointError,
    Reader,
    Restored,
    Transfer,
    export,
)

_PARAMS = "state/params"  # where a checkpoint of a run has the parameters

Step = Literal["latest", "best"] | int


def load_params(
    directory: str | os.PathLike[str],
    target: PyTree | None = None,
    step: Step = "latest",
    *,
    transfer: Transfer | None = None,
    subtree: str = _PARAMS,
    monitor: str | None = None,
    mode: Mode | None = None,
) -> PyTree:
    """Read the parameters that a run has saved; nothing is changed.

    Without a target neither the optimizer nor the model's code is needed. With one, the
    parameters must be like it, except where a transfer says otherwise: so a run begins from
    another run's parameters. On several processes each may call this, all of them or one.

    Args:
        directory: The run's directory, or that of its checkpoints.
        target: Parameters of the same structure, shapes and dtypes, arrays or
            `jax.ShapeDtypeStruct`; None reads what is there.
        step: "latest", "best" by the metric that the run kept its checkpoints by, or a step.
        transfer: What is renamed, initialized and ignored on the way to the target.
        subtree: The node of the checkpoint to read; "state/model_state" is what the model
            itself updates, such as batch statistics.
        monitor: The metric that says what is best; None is the run's.
        mode: Whether "min" or "max" of `monitor` is better; None is as the run kept its
            checkpoints by it, or as its name says.

    Returns:
        With a target a tree like it; without, dicts, lists and tuples of numpy arrays.

    Raises:
        CheckpointError: If there is no such checkpoint or subtree, it can't be read, or it is not
            like the target.

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
    reader = _reader(directory, step, monitor, mode)
    if target is not None:
        return reader.restore(target, step, transfer=transfer, subtree=subtree).tree
    if transfer is not None:
        raise CheckpointError("a transfer needs a target: pass the parameters to restore into")
    return reader.load(step, subtree=subtree).tree


def export_params(
    directory: str | os.PathLike[str],
    path: str | os.PathLike[str],
    step: Step = "latest",
    *,
    format: Literal["orbax", "safetensors"] = "orbax",
    subtree: str = _PARAMS,
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
            which a parameter's name is its keys with "." between them.
        subtree: The node of the checkpoint to write; "" is all of it.
        monitor: The metric that says what is best; None is the run's.
        mode: Whether "min" or "max" of `monitor` is better; None is as the run kept its
            checkpoints by it, or as its name says.

    Returns:
        The path, absolute.

    Raises:
        CheckpointError: If there is no such checkpoint or subtree, something is at the path
            already, the format can't hold what is there, or two parameters would have one name.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> task = ody.pure_task({"w": jnp.ones(3)}, lambda p, x: ((p["w"] - x) ** 2).mean())
        >>> data = ody.ArrayDataset(jnp.ones((8, 3)), batch_size=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = ody.fit(task, optax.sgd(0.1), data, epochs=1, directory=folder, writers=[])
        ...     path = ody.export_params(
        ...         folder, f"{folder}/model.safetensors", format="safetensors"
        ...     )
        ...     path.name
        'model.safetensors'
    """
    reader = _reader(directory, step, monitor, mode)
    found: Restored = reader.load(step, subtree=subtree)
    return export(found.tree, path, format, {"step": str(found.step)})


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
