"""What people have, made a source: found by what it can do, without importing a library."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from odyssey_jax._checks import check_count
from odyssey_jax._types import Transform
from odyssey_jax.data._arrays import ArrayDataset
from odyssey_jax.data._grain import grain_stream
from odyssey_jax.data._hosted import HostDataset
from odyssey_jax.data._huggingface import TableDataset, huggingface_stream, is_table
from odyssey_jax.data._leaves import batch_of, is_array, is_read_in_pieces, length_of
from odyssey_jax.data._source import HostSource, IndexedSource, Source, check_transform
from odyssey_jax.data._streams import Passes, StepFunction, Stream, length_or_none
from odyssey_jax.data._torch import torch_stream

_ACCEPTED = (
    "arrays or a pytree of arrays with batch_size=, ody.ArrayDataset, ody.HostDataset, a function "
    "of the step, a generator function, Grain's data sets and DataLoader, a torch DataLoader or "
    "StatefulDataLoader, a tf.data.Dataset, a Hugging Face data set, or any iterable of batches"
)


def as_source(
    name: str, value: Any, *, batch_size: int | None = None, shuffle: bool = False
) -> Source:
    """Return data of any kind that is accepted as a source.

    Args:
        name: What errors call it, such as "train".
        value: A `Source`, which is returned as it is, or what `stream` takes, or arrays.
        batch_size: Examples in a batch, for arrays and a Hugging Face `Dataset`.
        shuffle: Whether every pass has its own random order, for the same two.

    Returns:
        An `IndexedSource` or a `HostSource`.

    Raises:
        TypeError: If it is none of these.
        ValueError: If `batch_size` is missing, or given for what has batches already, or the
            first batch has something that is no array, named by its path.
    """
    if _is_source(value):
        _refuse_options(name, value, batch_size, shuffle)
        return value
    if is_unbatched(value):
        value = _without_sets(name, value)
        if batch_size is None:
            what = "a Hugging Face Dataset" if is_table(value) else "of arrays"
            raise ValueError(
                f"{name} is {what}: say how many examples make a batch, as in batch_size=32."
            )
        try:
            return _kind_of(value)(value, batch_size, shuffle=shuffle)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    found = _stream_of(name, value)
    _refuse_options(name, value, batch_size, shuffle)
    return found


def stream(
    data: Any,
    *,
    steps_per_pass: int | None = None,
    remainder: int = 0,
    transform: Transform | None = None,
) -> HostSource:
    """Read batches on the host from a loader, an iterable or a function, with options.

    What `fit` takes it makes a stream of by itself; this is for what it can't know. A batch is
    any pytree of arrays [batch, ...], NumPy's, JAX's, torch's or TensorFlow's.

    | data | a pass | a run goes on in its middle |
    |---|---|---|
    | function `step -> batch` | endless | at once |
    | list of batches, Grain `MapDataset` | its length | at once |
    | Grain `IterDataset`, `DataLoader` | until its end | by its state |
    | `StatefulDataLoader` of torchdata | its length | by its state |
    | anything with `state_dict` and `load_state_dict` | its length | by its state |
    | Hugging Face `IterableDataset` | until its end | by its state; shuffled, by skipping |
    | torch `DataLoader` | its length | by skipping; shuffled without `generator=`, never |
    | `tf.data.Dataset`, any iterable | its length, if any | by skipping |
    | generator function | until its end | by skipping |
    | iterator, generator | once | never |

    To skip is to read all batches from the run's first on, so seed what is random. Of a
    generator function that takes the index of the pass, of which `steps_per_pass` is given,
    the passes before are left out.

    Documents of tokens are packed by Grain, and go on by its state as the rest does; see the
    example.

    Args:
        data: One of these.
        steps_per_pass: Batches in a pass, where the data does not say it.
        remainder: Examples in a pass's last, smaller batch, where the data does not say it; 0
            where there is none.
        transform: Pure function `(batch, key) -> batch` that is part of the compiled step, for
            augmentation and masking; without a key (None) in validation.

    Returns:
        The source.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the first batch has something that is no array, named by its path, or an
            option says other than the data.

    Example:
        >>> import grain, numpy as np, odyssey_jax as ody
        >>> documents = [{"tokens": np.arange(n)} for n in (3, 7, 2, 5)]
        >>> packed = grain.experimental.BestFitPackIterDataset(
        ...     grain.MapDataset.source(documents).shuffle(seed=0).repeat().to_iter_dataset(),
        ...     length_struct={"tokens": 8}, num_packing_bins=4,
        ... )  # or ConcatThenSplitIterDataset(..., length_struct={"tokens": 8})
        >>> data = ody.stream(packed.batch(2, drop_remainder=True))
        >>> sorted(data.spec), data.spec["tokens"].shape, data.resumes
        (['tokens', 'tokens_positions', 'tokens_segment_ids'], (2, 8), 'by state')
    """
    if _is_source(data) and not isinstance(data, Stream):
        raise TypeError(f"{data!r} is a source already: give it transform= itself.")
    if is_unbatched(data) and not isinstance(data, list):
        raise TypeError(
            f"the stream is a {type(data).__name__}, which has no batches: "
            "HostDataset(arrays, batch_size) makes them of arrays, and fit(batch_size=) of a table."
        )
    check_transform(transform)
    found = _stream_of("the stream", data)
    changes: dict[str, Any] = {} if transform is None else {"transform": transform}
    if steps_per_pass is not None:
        changes["steps_per_pass"] = check_count("steps_per_pass", steps_per_pass, 1)
        if found.steps_per_pass not in (None, steps_per_pass):
            raise ValueError(
                f"steps_per_pass={steps_per_pass}, but the data has {found.steps_per_pass} "
                "batches in a pass: leave it out."
            )
    if remainder:
        changes["remainder"] = check_count("remainder", remainder)
        if remainder >= found.batch_size:
            raise ValueError(
                f"remainder={remainder} must be below the {found.batch_size} examples of a batch."
            )
        if found.remainder not in (0, remainder):
            raise ValueError(
                f"remainder={remainder}, but the data has {found.remainder} examples in its last "
                "batch: leave it out."
            )
    for option, value in changes.items():
        setattr(found, option, value)
    return found


def _stream_of(name: str, value: Any) -> Stream:
    """Return the stream of what is no array."""
    if isinstance(value, Stream):
        return copy.copy(value)
    for make in (grain_stream, huggingface_stream, torch_stream, _tf_stream):
        if (found := make(name, value)) is not None:
            return found
    if isinstance(value, list):
        return _list_stream(name, value)
    if isinstance(value, Iterator):
        return _once(name, value)
    if hasattr(value, "to_numpy"):
        raise TypeError(
            f"{name} is a {type(value).__name__}: give its columns as arrays, as in "
            "{name: table[name].to_numpy() for name in table}."
        )
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        kind, known = type(value).__name__, length_or_none(value)
        begin = lambda index: iter(value)
        return Passes(name=name, kind=kind, begin=begin, steps_per_pass=known)
    if callable(value):
        return _function_stream(name, value)
    remedy = ""
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        remedy = " Open a file first, as in np.load(path, mmap_mode='r')."
    elif hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        remedy = " Of examples by index, grain.MapDataset.source(examples).batch(32) makes batches."
    raise TypeError(f"{name} must be {_ACCEPTED}; got a {type(value).__name__}: {value!r}.{remedy}")


def _tf_stream(name: str, value: Any) -> Stream | None:
    if not (hasattr(value, "as_numpy_iterator") and hasattr(value, "cardinality")):
        return None
    known = int(value.cardinality())  # -1 is endless, -2 unknown
    begin = lambda index: iter(value.as_numpy_iterator())
    known = known if known >= 0 else None
    return Passes(name=name, kind="tf.data.Dataset", begin=begin, steps_per_pass=known)


def _list_stream(name: str, batches: list[Any]) -> Stream:
    if not batches:
        raise ValueError(f"{name} is an empty list.")
    return StepFunction(
        name=name,
        kind="list",
        function=lambda step: batches[step % len(batches)],
        steps_per_pass=len(batches),
        remainder=length_of(batch_of(name, batches[-1])),
    )


def _once(name: str, iterator: Iterator[Any]) -> Stream:
    """Return the one pass of an iterator."""
    remedy = "give a function that makes one for every pass, such as lambda: batches()."
    left = [iterator]

    def begin(index: int) -> Iterator[Any]:
        if not left:
            raise ValueError(
                f"{name} is an iterator, which has been read, and pass {index} is asked for: "
                f"{remedy}"
            )
        return left.pop()

    refusal = f"an iterator can be read once; {remedy}"
    return Passes(
        name=name, kind=type(iterator).__name__, begin=begin, refusal=refusal, shared=iterator
    )


def _function_stream(name: str, function: Callable[..., Any]) -> Stream:
    required = _required_parameters(name, function)
    if required > 1:
        raise TypeError(
            f"{name}={function!r} must take the step, or nothing and give batches; it takes "
            f"{required} arguments."
        )
    call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    call = getattr(function, "func", call)  # functools.partial
    if required and not inspect.isgeneratorfunction(call):
        return StepFunction(name=name, kind="function of the step", function=function)

    def begin(index: int) -> Iterator[Any]:
        made = function(index) if required else function()
        if not isinstance(made, Iterable) or is_array(made):
            raise TypeError(
                f"{name}={function!r} takes no argument, so it must give an iterable of batches, "
                f"anew for every pass; it gave a {type(made).__name__}. A function of the step "
                "takes the step."
            )
        return iter(made)

    kind = "generator function"
    return Passes(name=name, kind=kind, begin=begin, by_index=bool(required))


def _required_parameters(name: str, function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}={function!r} does not say what it takes: wrap it, as in lambda step: f(step)."
        ) from error
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(x.kind in kinds and x.default is inspect.Parameter.empty for x in parameters)


def is_unbatched(value: Any) -> bool:
    """Return whether it is of examples, which a batch size makes batches of: arrays, or a table."""
    if _is_source(value):
        return False
    if is_table(value) or isinstance(value, (Mapping, tuple)):  # of batches there are lists
        return True
    if isinstance(value, list):
        return any(map(is_array, value))
    return is_array(value)


def _is_source(value: Any) -> bool:
    return isinstance(value, (IndexedSource, HostSource))


def _without_sets(name: str, value: Any) -> Any:
    """Return arrays, a mapping as a dict; refuse a mapping of several sets."""
    if not isinstance(value, Mapping):
        return value
    value = dict(value)  # also np.load's of an .npz, and h5py's File
    for key, x in value.items():
        loader = isinstance(x, Iterable) and not (is_array(x) or isinstance(x, (Sequence, Mapping)))
        if _is_source(x) or is_table(x) or loader:
            raise TypeError(
                f"{name} is a dict with a {type(x).__name__} under {key!r}, and no arrays: "
                f"give one, such as {name}[{key!r}]. Several sets by name are for valid=."
            )
    return value


def _kind_of(value: Any) -> Any:
    """Return the class of source for examples: in memory on the device, and else on the host."""
    if is_table(value):
        return TableDataset
    lazily = lambda x: isinstance(x, np.memmap) or is_read_in_pieces(x)
    return HostDataset if any(map(lazily, jax.tree.leaves(value))) else ArrayDataset


def _refuse_options(name: str, value: Any, batch_size: int | None, shuffle: bool) -> None:
    for option, given in (("batch_size", batch_size is not None), ("shuffle", shuffle)):
        if given:
            raise ValueError(
                f"{option}= is for arrays, and {name} is a {type(value).__name__}, which has "
                f"batches of its own: leave it out, or set it there."
            )
