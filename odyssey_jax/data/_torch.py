"""Sources from torch's loaders, and from others that keep a state as torchdata's do."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from odyssey_jax.data._streams import Passes, Stream, length_or_none


def torch_stream(name: str, value: Any) -> Stream | None:
    """Return the stream of a torch loader, or of what has its state's methods; or None."""
    data = sys.modules.get("torch.utils.data")
    if data is not None and isinstance(value, data.DataLoader):
        return _loader_stream(name, value)
    if data is not None and isinstance(value, data.Dataset) and not isinstance(value, Iterable):
        raise TypeError(
            f"{name} is a torch Dataset, which gives examples and not batches: wrap it, as in "
            "torch.utils.data.DataLoader(data, batch_size=32)."
        )
    if isinstance(value, Iterable) and _keeps_state(value):
        return _stateful_stream(name, value)
    return None


def _stateful_stream(name: str, value: Any) -> Stream:
    """Return the stream of what has torchdata's methods, and goes on where it is."""
    first = value.state_dict()

    def begin(index: int) -> Iterator[Any]:
        if index == 0:
            value.load_state_dict(first)
        return iter(value)

    return Passes(
        name=name,
        kind=type(value).__name__,
        begin=begin,
        steps_per_pass=length_or_none(value),
        shared=value,
        **_by_state(value),
    )


def _keeps_state(value: Any) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def _by_state(loader: Any) -> dict[str, Any]:
    def restore(index: int, state: Any) -> Iterator[Any]:
        del index  # the state says it
        loader.load_state_dict(state)
        return iter(loader)

    return {"save": lambda iterator: loader.state_dict(), "restore": restore}


def _loader_stream(name: str, loader: Any) -> Stream:
    samplers = [
        loader.sampler,
        loader.batch_sampler,
        getattr(loader.batch_sampler, "sampler", None),
    ]
    stateful = _keeps_state(loader)
    _own_generators([loader, *samplers])
    if stateful:
        _part_generators(loader, samplers)
    of_samplers = [getattr(x, "generator", None) for x in samplers]
    generators = [x for x in (loader.generator, *of_samplers) if x is not None]
    # torchdata saves the order of its own samplers alone; of others, what it is drawn from.
    unsaved = [x.generator for x in samplers if _is_unsaved(x)]
    before: list[Any] = []
    epochs = [x.set_epoch for x in samplers if hasattr(x, "set_epoch")]

    def begin(index: int) -> Iterator[Any]:
        for set_epoch in epochs:
            set_epoch(index)
        for generator in generators:
            # Each run begins with the order of the generator's seed, whatever was read before.
            if index == 0:
                generator.manual_seed(generator.initial_seed())
        before[:] = [generator.get_state() for generator in unsaved]
        return iter(loader)

    # A sampler's generator of None is torch's global one.
    unseeded = any(hasattr(x, "generator") and x.generator is None for x in samplers)
    refusal = (
        "it is a torch DataLoader shuffled by torch's global generator, whose order is another in "
        "each process: give it generator=torch.Generator().manual_seed(0), or use the "
        "StatefulDataLoader of torchdata."
    )
    return Passes(
        name=name,
        kind=f"torch {type(loader).__name__}",
        begin=begin,
        steps_per_pass=length_or_none(loader),
        remainder=_remainder(loader),
        by_index=bool(epochs) or _in_order(loader),
        refusal=refusal if unseeded and not stateful else "",
        shared=loader if stateful or epochs or generators else None,
        **(_with_generators(loader, unsaved, before) if stateful else {}),
    )


def _own_generators(holders: list[Any]) -> None:
    """Give a loader generators of its own: another loader may draw from the same, in a thread."""
    torch: Any = sys.modules["torch"]
    owned: dict[Any, Any] = {}
    for holder in holders:
        given = getattr(holder, "generator", None)
        if given is not None and given not in owned.values():
            own = torch.Generator(given.device).manual_seed(given.initial_seed())
            holder.generator = owned.setdefault(given, own)


def _part_generators(loader: Any, samplers: list[Any]) -> None:
    """Give the seeds of a loader's workers a generator of their own.

    The seeds are drawn from the generator that torch also gives the sampler, but not drawn again
    where torchdata restores a state: the passes that follow would have another order.
    """
    if any(getattr(x, "generator", None) is loader.generator is not None for x in samplers):
        torch: Any = sys.modules["torch"]
        loader.generator = torch.Generator().manual_seed(loader.generator.initial_seed())


def _is_unsaved(sampler: Any) -> bool:
    generator = getattr(sampler, "generator", None)
    return generator is not None and not type(sampler).__module__.startswith("torchdata.")


def _with_generators(loader: Any, unsaved: list[Any], before: list[Any]) -> dict[str, Any]:
    """Return how a torchdata loader's state is saved and restored, with those of generators.

    Args:
        loader: The loader, whose workers' seeds are drawn from its own.
        unsaved: Those of samplers whose order torchdata draws again.
        before: Their states where the running pass began.
    """
    restored = _by_state(loader)["restore"]

    def save(iterator: Any) -> Any:
        del iterator  # the loader knows it
        generator = loader.generator
        seeds = None if generator is None else generator.get_state()
        return {"loader": loader.state_dict(), "seeds": seeds, "orders": list(before)}

    def restore(index: int, state: Any) -> Iterator[Any]:
        before[:] = state["orders"]
        for generator, order in zip(unsaved, before, strict=True):
            generator.set_state(order)
        iterator = restored(index, state["loader"])
        if state["seeds"] is not None:
            loader.generator.set_state(state["seeds"])
        return iterator

    return {"save": save, "restore": restore}


def _in_order(loader: Any) -> bool:
    data = sys.modules["torch.utils.data"]
    return isinstance(loader.sampler, data.SequentialSampler)


def _remainder(loader: Any) -> int:
    """Return the examples of the last batch, where torch's own batch sampler makes it."""
    data = sys.modules["torch.utils.data"]
    if loader.drop_last or not isinstance(loader.batch_sampler, data.BatchSampler):
        return 0
    examples, size = length_or_none(loader.sampler), loader.batch_sampler.batch_size
    return 0 if examples is None else examples % size
