"""Which axes of a parameter lie along which axes of a mesh, and what lies as a parameter does."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from odyssey_jax._checks import check_pattern
from odyssey_jax._types import ModelState, PyTree
from odyssey_jax.parallel._placement import AxisNames

Names = tuple[str, ...]  # the keys on the way to a leaf


class Rule(Protocol):
    """What decides where a leaf of the train state lies; hashable.

    Attributes:
        words: What it is called.
    """

    words: ClassVar[str]

    def of(self, axis_names: Callable[[], AxisNames], init: Callable[[], PyTree]) -> Self:
        """Return the rule of a task: see `Placement.of`."""
        ...

    def spec(self, name: str, shape: tuple[int, ...], so_far: PartitionSpec) -> PartitionSpec:
        """Return where a leaf lies, given what the rules before say."""
        ...

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError, or warn, if the rule or a part of it is for none of the leaves."""
        ...


@dataclasses.dataclass(frozen=True)
class ByPath:
    """Specs by patterns on the paths; the first that is found decides."""

    patterns: tuple[tuple[str, PartitionSpec], ...]
    words: ClassVar[str] = "by rules"

    def of(self, axis_names: Any, init: Any) -> Self:
        """Return itself."""
        del axis_names, init
        return self

    def spec(self, name: str, shape: tuple[int, ...], so_far: PartitionSpec) -> PartitionSpec:
        """Return the first pattern's."""
        del shape
        return next((s for pattern, s in self.patterns if re.search(pattern, name)), so_far)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError if a pattern is found in no path."""
        for pattern, _ in self.patterns:
            if not any(re.search(pattern, name) for name in shapes):
                shown = ", ".join([*shapes][:8]) + (", ..." if len(shapes) > 8 else "")
                raise ValueError(f"rules: {pattern!r} is found in no parameter's path: {shown}.")


@dataclasses.dataclass(frozen=True)
class Annotated:
    """The model's own annotations: names of axes, which `axes` takes to those of the mesh."""

    mesh: Mesh
    axes: tuple[tuple[str, Any], ...]
    names: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    words: ClassVar[str] = "as annotated"

    def of(self, axis_names: Callable[[], AxisNames], init: Any) -> Self:
        """Take in what the task's parameters are annotated with."""
        del init
        found = {name: tuple(names) for name, names in axis_names().items()}
        if not found:
            raise ValueError(
                "the model's parameters, or load_params's target, have no annotations to place "
                "them by: make them with "
                "nnx.with_partitioning or nn.with_partitioning; or give rules by their paths, as "
                "in ody.sharded(mesh, {'kernel$': PartitionSpec(None, 'model')})."
            )
        return dataclasses.replace(self, names=tuple(found.items()))

    def spec(self, name: str, shape: tuple[int, ...], so_far: PartitionSpec) -> PartitionSpec:
        """Return the annotation, in axes of the mesh; each is used once, the first name wins."""
        del shape
        names = dict(self.names).get(name)
        if names is None:
            return so_far
        used: set[str] = set()
        return PartitionSpec(*(self._axis(name, axis, used) for axis in names))

    def _axis(self, name: str, axis: Any, used: set[str]) -> Any:
        if axis is None:
            return None
        if isinstance(axis, tuple):
            found = [self._axis(name, x, used) for x in axis]
            return tuple(x for x in found if x is not None) or None
        candidates = [to for logical, to in self.axes if logical == axis]
        if not candidates:
            if axis not in self.mesh.axis_names:
                raise ValueError(
                    f"the parameter {name!r} has an axis annotated {axis!r}, which is no axis of "
                    f"the mesh {self.mesh.axis_names} and in no rule of {dict(self.axes)}: give "
                    f"annotations={{{axis!r}: None}} to leave it whole."
                )
            candidates = [axis]
        for to in candidates:
            parts = {*names_of(to)}
            if not parts & used:
                used |= parts
                return to
        return None

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Do nothing: annotations are the parameters' own."""


@dataclasses.dataclass(frozen=True)
class LargestAxis:
    """Each leaf along the largest of its free axes that divides; small ones whole."""

    axis: tuple[str, ...]
    size: int
    min_size: int
    words: ClassVar[str] = "fully sharded"

    def of(self, axis_names: Any, init: Any) -> Self:
        """Return itself."""
        del axis_names, init
        return self

    def spec(self, name: str, shape: tuple[int, ...], so_far: PartitionSpec) -> PartitionSpec:
        """Return the spec with the mesh's axes at the largest axis."""
        del name
        taken = [*so_far, *[None] * (len(shape) - len(so_far))]
        named = {name for entry in taken for name in names_of(entry)}
        if int(np.prod(shape)) < self.min_size or named & {*self.axis}:
            return so_far
        free = [i for i, n in enumerate(shape) if taken[i] is None and n and n % self.size == 0]
        if not free:
            return so_far
        largest = max(free, key=lambda i: shape[i])
        taken[largest] = self.axis[0] if len(self.axis) == 1 else self.axis
        return PartitionSpec(*taken)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Warn if each leaf would lie whole on each device."""
        if self.size > 1 and not any(self.spec("", x, PartitionSpec()) for x in shapes.values()):
            largest = max(map(math.prod, shapes.values()), default=0)
            warnings.warn(
                f"fully_sharded cuts nothing of this model, which lies whole on each device: its "
                f"largest array has {largest:,} elements, min_size is {self.min_size:,}, and an "
                f"axis is cut that {self.size} divides. Choose a smaller min_size, a "
                "mesh of fewer devices, or ody.data_parallel().",
                RuntimeWarning,
                stacklevel=2,
            )


@dataclasses.dataclass(frozen=True)
class AsGiven:
    """Where the arrays that a task starts from lie already."""

    specs: tuple[tuple[str, PartitionSpec], ...] = ()
    words: ClassVar[str] = "as given"

    def of(self, axis_names: Any, init: Callable[[], PyTree]) -> Self:
        """Look where the arrays lie, unless it is known."""
        del axis_names
        if self.specs:
            return self
        found = [(name, getattr(x, "sharding", None)) for name, x in named_leaves(init())]
        specs = [(name, x.spec) for name, x in found if isinstance(x, NamedSharding)]
        if not specs:
            raise ValueError(
                "as_given keeps arrays where they lie on a mesh, and none of the arrays lies on "
                "one: put them there, as by jax.device_put(params, shardings), or choose another "
                "placement, such as ody.fully_sharded(mesh)."
            )
        return dataclasses.replace(self, specs=tuple(specs))

    def spec(self, name: str, shape: tuple[int, ...], so_far: PartitionSpec) -> PartitionSpec:
        """Return where the leaf lay."""
        del shape
        return dict(self.specs).get(name, so_far)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Do nothing: the arrays are the parameters."""


def named_leaves(
    states: PyTree, is_leaf: Callable[[Any], bool] | None = None
) -> Iterable[tuple[str, Any]]:
    """Yield the leaves of `(params, model_state)` by their paths, in the model's own terms."""
    params, model_state = states
    parts = model_state if isinstance(model_state, ModelState) else (model_state,)
    for tree in (params, *parts):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf):
            yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def axis_names(states: PyTree) -> dict[str, tuple[Any, ...]]:
    """Return what Linen's boxes and NNX's variables say of the axes of what is in them.

    `nn.Partitioned` names axes of a mesh, `nn.LogicallyPartitioned` logical ones.

    Args:
        states: The parameters and the model state.

    Returns:
        Path, of a variable of NNX its own, and of what is in a box -> the axes' names.
    """
    # Who has one of them has imported it.
    box: Any = getattr(sys.modules.get("flax.core.meta"), "Partitioned", ())
    variable: Any = getattr(sys.modules.get("flax.nnx"), "Variable", ())
    found: dict[str, tuple[Any, ...]] = {}
    for name, node in named_leaves(states, is_leaf=lambda x: isinstance(x, (box, variable))):
        if isinstance(node, box):
            found[f"{name}/value"] = tuple(node.names)
        elif isinstance(node, variable) and (axes := node.get_metadata().get("out_sharding")):
            found[name] = tuple(axes)
    return found


class Layout:
    """Where the leaves of trees lie that mirror a train state.

    A leaf lies as a parameter does if it has its shape, and the parameter's path is found in its
    own: the same last key, and the others before it in their order, as "encoder/kernel" in
    "0/mu/encoder/kernel". So moments, averages and best copies follow what they are of. Where
    several are found it is the longest; all other leaves lie whole on each device.

    Args:
        rules: In their order.
        mesh: The mesh.
        params: The parameters, arrays or their shapes.
        model_state: The model state.

    Raises:
        ValueError: If a leaf can't be cut as the rules say, or a pattern is for none.
    """

    def __init__(self, rules: Sequence[Rule], mesh: Mesh, params: PyTree, model_state: PyTree):
        self._mesh = mesh
        self._whole = NamedSharding(mesh, PartitionSpec())
        found = list(named_leaves((params, model_state)))
        for rule in rules:
            rule.check({name: np.shape(leaf) for name, leaf in found})
        placed: dict[Any, list[tuple[Names, NamedSharding]]] = collections.defaultdict(list)
        for name, leaf in found:
            spec, shape = PartitionSpec(), np.shape(leaf)
            for rule in rules:
                spec = rule.spec(name, shape, spec)
            names = tuple(name.split("/")) if name else ()
            while spec and spec[-1] is None:  # JAX takes P("data", None) for another than P("data")
                spec = PartitionSpec(*spec[:-1])
            sharding = _checked(name, shape, NamedSharding(mesh, spec))
            # Those that lie whole too: else they would be found to mirror others.
            placed[(*names[-1:], shape)].append((names, sharding))
        for candidates in placed.values():
            candidates.sort(key=lambda pair: -len(pair[0]))
        cut = lambda candidates: any(sharding != self._whole for _, sharding in candidates)
        self._placed = {key: found for key, found in placed.items() if cut(found)}

    def shardings(self, tree: PyTree) -> PyTree:
        """Return the sharding of each leaf."""
        return jax.tree_util.tree_map_with_path(self._sharding, tree)

    def _sharding(self, path: Any, leaf: Any) -> NamedSharding:
        names, shape = _keys(path), np.shape(leaf)
        for end in (names[-1:], ()):
            for candidate, sharding in self._placed.get((*end, shape), ()):
                if _in_order(candidate, names):
                    return sharding
        return self._whole


def _checked(name: str, shape: tuple[int, ...], sharding: NamedSharding) -> NamedSharding:
    try:
        sharding.shard_shape(shape)
    except ValueError as error:
        raise ValueError(
            f"the parameter {name!r} of shape {list(shape)} can't be cut as {sharding.spec} over "
            f"{dict(sharding.mesh.shape)}: {error}. Give it another spec, or none."
        ) from error
    return sharding


def _in_order(part: Names, whole: Names) -> bool:
    """Return whether the keys of a path are all among those of another, in their order."""
    rest = iter(whole)
    return all(key in rest for key in part)


def _keys(path: Any) -> Names:
    """Return the keys of a path; one that has slashes itself, as Haiku's have, is several."""
    return tuple(jax.tree_util.keystr(path, simple=True, separator="/").split("/")) if path else ()


def names_of(entry: Any) -> Names:
    """Return the axes of a mesh that an entry of a partition spec names."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def as_patterns(rules: Mapping[str, PartitionSpec]) -> tuple[tuple[str, PartitionSpec], ...]:
    """Return rules by path as pairs.

    Raises:
        TypeError: If they are no mapping of patterns to partition specs.
        ValueError: If a pattern is no regular expression.
    """
    if not isinstance(rules, Mapping) or not all(
        isinstance(k, str) and isinstance(v, PartitionSpec) for k, v in rules.items()
    ):
        raise TypeError(
            "rules must be a mapping of patterns on the parameters' paths to PartitionSpecs, such "
            f"as {{'kernel$': PartitionSpec(None, 'model')}}, got {rules!r}."
        )
    for pattern in rules:
        check_pattern("rules", pattern)
    return tuple(rules.items())
