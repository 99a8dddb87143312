"""Placements over a mesh of devices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self, cast

import jax
import numpy as np
from jax import core, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from odyssey_jax._checks import check_count
from odyssey_jax._types import PyTree, asks_for
from odyssey_jax.parallel._alike import check_alike
from odyssey_jax.parallel._placement import AxisNames, OneDevice, Placement, is_key
from odyssey_jax.parallel._rules import (
    Annotated,
    AsGiven,
    ByPath,
    LargestAxis,
    Layout,
    Rule,
    as_patterns,
    names_of,
)

_MIN_SIZE = 2**14  # elements; gathering a smaller array takes longer than it saves memory


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """Batches cut over a mesh, and the train state as rules say.

    The program is compiled for automatic axes, so that callbacks, metrics and optimizers need not
    know of the mesh; a task's functions run with the axes as the mesh given has them.

    Attributes:
        mesh: The mesh, its axes automatic.
        batch_spec: How a batch is cut, along its first axis.
        rules: Where the train state lies; with none it is whole on each device.
        explicit: The axes of the mesh that are explicit in a task's functions.
    """

    mesh: Mesh
    batch_spec: PartitionSpec
    rules: tuple[Rule, ...] = ()
    explicit: tuple[str, ...] = ()

    def of(self, axis_names: Callable[[], AxisNames], init: Callable[[], PyTree]) -> Self:
        """Return the placement of a task."""
        return dataclasses.replace(self, rules=tuple(r.of(axis_names, init) for r in self.rules))

    def check(self, batch_size: int) -> None:
        """Raise ValueError unless the mesh can hold such a batch, and spans all processes."""
        try:
            self._batch_sharding.shard_shape((batch_size,))
        except ValueError as error:
            raise ValueError(
                f"a batch of {batch_size} examples can't be cut evenly by {self.batch_spec} over "
                f"the {self._parts} parts of {dict(self.mesh.shape)}: choose a batch_size that is "
                f"a multiple of {self._parts}."
            ) from error
        devices = self.mesh.devices.flat
        missing = set(range(jax.process_count())) - {d.process_index for d in devices}
        if missing:
            raise ValueError(
                f"the mesh {dict(self.mesh.shape)} has no device of the processes "
                f"{sorted(missing)}: make it of jax.devices(), which are all processes'."
            )

    @property
    def _parts(self) -> int:
        return math.prod(self.mesh.shape[name] for name in _axes_of(self.batch_spec))

    @property
    def _batch_sharding(self) -> NamedSharding:
        return NamedSharding(self.mesh, self.batch_spec)

    @property
    def _whole(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def context(self) -> AbstractContextManager[Any]:
        """Set the mesh, so that a model's own constraints may name its axes."""
        return jax.set_mesh(self.mesh)

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a task's function as one whose axes are explicit, where the mesh's are."""
        return _Explicit(function, self) if self.explicit else function

    def init(self, init: Callable[[jax.Array], PyTree], key: jax.Array) -> PyTree:
        """Make the parameters and the model state, each part of an array on its own device.

        What makes them is compiled, unless it only hands on arrays that there are.
        """
        with self.context():
            traced, form = jax.make_jaxpr(init, return_shape=True)(key)
            if not traced.eqns:
                states = init(key)
                if not any(map(_is_global, jax.tree.leaves(states))):
                    check_alike({"model": states})
                return self._put(states, self._layout(*form).shardings(form))
            # What the function closes over comes as arguments: as constants they would be copied
            # into the program.
            shardings = jax.tree.leaves(self._layout(*form).shardings(form))
            make = lambda consts, key: core.eval_jaxpr(traced.jaxpr, consts, key)
            made = jax.jit(make, out_shardings=shardings)(self.put(traced.consts), self.put(key))
            return jax.tree.unflatten(jax.tree.structure(form), made)

    def _layout(self, params: PyTree, model_state: PyTree) -> Layout:
        return Layout(self.rules, self.mesh, params, model_state)

    def in_functions(self, params: PyTree, model_state: PyTree) -> Layout:
        """Return where the state lies in a task's functions whose axes are explicit.

        What is only stored in parts is gathered before.
        """
        rules = [rule for rule in self.rules if not isinstance(rule, LargestAxis)]
        return Layout(rules, self.mesh, params, model_state)

    @property
    def words(self) -> str:
        """The mesh's axes, and how the train state lies."""
        axes = " x ".join(f"{name}={n}" for name, n in self.mesh.shape.items())
        return f"{axes}, {', '.join(rule.words for rule in self.rules) or 'data parallel'}"

    @property
    def devices(self) -> Sequence[Any]:
        """Those of the mesh."""
        return list(self.mesh.devices.flat)

    def shardings(self, tree: PyTree, state: Any) -> PyTree:
        """Return where each leaf of a tree belongs."""
        return self._layout(state.params, state.model_state).shardings(tree)

    def place(self, tree: PyTree, state: Any) -> PyTree:
        """Put a tree where it belongs; on several processes each has the parts of its devices."""
        return self._put(tree, self.shardings(tree, state))

    def put(self, tree: PyTree) -> PyTree:
        """Put every array on every device; on several processes each holds them all alike."""
        return self._put(tree, jax.tree.map(lambda _: self._whole, tree))

    def _put(self, tree: PyTree, shardings: PyTree) -> PyTree:
        if self._whole.is_fully_addressable:
            return jax.device_put(tree, shardings)
        return jax.tree.map(_on_all, tree, shardings)

    def constrain(self, tree: PyTree, state: Any) -> PyTree:
        """Hold the leaves where they belong: XLA may choose otherwise, and compile again."""
        return lax.with_sharding_constraint(tree, self.shardings(tree, state))

    def batch(self, batch: PyTree) -> PyTree:
        """Constrain a batch to its sharding; a smaller one that can't be cut lies everywhere."""
        return lax.with_sharding_constraint(batch, self.of_batch(batch))

    def of_batch(self, batch: PyTree) -> PyTree:
        """Return how each array of a batch lies."""
        return jax.tree.map(lambda x: self._cut(self._batch_sharding, x.shape), batch)

    def _cut(self, sharding: NamedSharding, shape: tuple[int, ...]) -> NamedSharding:
        try:
            sharding.shard_shape(shape)
        except ValueError:
            return self._whole
        return sharding

    def stacked(self, batches: PyTree) -> PyTree:
        """Lay out each of the batches; a smaller one that can't be cut evenly lies everywhere."""
        laid_out = NamedSharding(self.mesh, PartitionSpec(None, *self.batch_spec))
        if jax.process_count() > 1:
            put = lambda x: jax.make_array_from_process_local_data(laid_out, x)
        else:
            put = lambda x: jax.device_put(x, self._cut(laid_out, x.shape))
        return jax.tree.map(put, batches)


class _Explicit:
    """A task's function, called with the axes of the mesh explicit."""

    def __init__(self, function: Callable[..., Any], placement: OnMesh):
        self.function, self.placement, self.asks_for = function, placement, asks_for(function)

    def with_loss(self, loss_fn: Callable[..., Any]) -> Any:
        """Return the same function of another loss."""
        return _Explicit(self.function.with_loss(loss_fn), self.placement)  # pyright: ignore

    def __call__(self, params: PyTree, model_state: PyTree, batch: Any, *key: Any, **where: Any):
        layout = self.placement.in_functions(params, model_state)
        spec_of = lambda tree: jax.tree.map(lambda s: s.spec, layout.shardings(tree))
        of_batch = jax.tree.map(lambda s: s.spec, self.placement.of_batch(batch))
        others = (key, where)
        whole = jax.tree.map(lambda _: PartitionSpec(), others)
        call = lambda params, model_state, batch, others: self.function(
            params, model_state, batch, *others[0], **others[1]
        )
        specs = (spec_of(params), spec_of(model_state), of_batch, whole)
        called: Any = jax.sharding.explicit_axes(
            call, axes=self.placement.explicit, in_sharding=specs
        )
        try:
            return called(params, model_state, batch, others)
        except Exception as error:
            if "sharding" in f"{type(error).__name__} {error}".lower():
                error.add_note(
                    "the axes of this placement's mesh are explicit, as those of jax.make_mesh are "
                    "by default: say in the model how its results lie (out_sharding=), or leave it "
                    "to XLA by jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * n)"
                )
            raise


def _is_global(value: Any) -> bool:
    return isinstance(value, jax.Array) and not value.is_fully_addressable


def _on_all(value: Any, sharding: NamedSharding) -> jax.Array:
    if _is_global(value):
        if value.sharding.is_equivalent_to(sharding, value.ndim):
            return value  # a restored one is there already
        return jax.jit(lambda x: x, out_shardings=sharding)(value)
    if is_key(value):
        data = _on_all(jax.random.key_data(value), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))
    array = np.asarray(value)
    # `jax.device_put` would compare the values of all processes, array by array.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def data_parallel(mesh: Mesh | None = None, *, batch: PartitionSpec | None = None) -> Placement:
    """Cut each batch over the devices, and keep the whole train state on each of them.

    Args:
        mesh: The devices, from `jax.make_mesh` or `jax.sharding.Mesh`. None is the mesh that
            `jax.set_mesh` has set, or else all devices of all processes in one axis, "data".
        batch: Which axes of the mesh a batch is cut along, such as `PartitionSpec("data")`; None
            is the mesh's only one.

    Returns:
        The placement, for `fit(placement=)` and the like.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If `batch` is needed, or names an axis that the mesh does not have.

    Example:
        >>> import odyssey_jax as ody
        >>> ody.data_parallel().mesh.axis_names
        ('data',)
    """
    return _on_mesh(mesh, batch, lambda *_: ())


def fully_sharded(
    mesh: Mesh | None = None,
    *,
    batch: PartitionSpec | None = None,
    axis: str | Sequence[str] | None = None,
    min_size: int = _MIN_SIZE,
    rules: Mapping[str, PartitionSpec] | None = None,
) -> Placement:
    """Cut each batch, and each large array of the train state, over the devices.

    Parameters, gradients, moments, averages and best copies lie along the largest of their axes
    that the devices divide evenly; each device holds its part, and what a layer needs of the
    others is gathered when it is used. It is what PyTorch calls FSDP, and DeepSpeed ZeRO-3.

    Args:
        mesh: As for `data_parallel`.
        batch: As for `data_parallel`.
        axis: The axis, or the axes, of the mesh that the train state is cut along; None is the
            batch's.
        min_size: Elements of the smallest array that is cut; smaller ones, and those none of
            whose axes divide, lie whole on each device. Where that is all there are, a warning
            says so.
        rules: As for `sharded`, which come first: what they cut is cut along a free axis too.

    Returns:
        The placement.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If an argument is out of its range, or does not go with the mesh.

    Source:
        Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models"
        (2020).

    Example:
        >>> import odyssey_jax as ody
        >>> placement = ody.fully_sharded(min_size=2**16)
    """
    min_size = check_count("min_size", min_size, most=math.inf)

    def rules_of(mesh: Mesh, batch: PartitionSpec) -> tuple[Rule, ...]:
        along = _axes_of(batch) if axis is None else names_of(axis)
        _check_axes("axis", along, mesh)
        if not along:
            raise ValueError("axis must name an axis of the mesh, where batch names none.")
        size = math.prod(mesh.shape[name] for name in along)
        largest = LargestAxis(along, size, min_size)
        return (largest,) if rules is None else (_by_path(rules, mesh), largest)

    return _on_mesh(mesh, batch, rules_of)


def sharded(
    mesh: Mesh,
    rules: Mapping[str, PartitionSpec] | None = None,
    *,
    annotations: Mapping[str, Any] | Sequence[tuple[str, Any]] | None = None,
    batch: PartitionSpec | None = None,
) -> Placement:
    """Cut the parameters as rules by their paths say, or as the model is annotated.

    Args:
        mesh: The devices, by axes such as "data" and "model".
        rules: Pattern to partition spec, such as `{"mlp/.*kernel$": PartitionSpec(None,
            "model")}`. A parameter's path is its keys with slashes between them; the first
            pattern that is found in it decides, and what none is found in lies whole on each
            device. None is the model's annotations: of NNX `nnx.with_partitioning`, of Linen
            `nn.with_partitioning` and `nn.with_logical_partitioning`.
        annotations: Where the model is annotated with logical axes, a mapping (or pairs, as Flax's
            logical axis rules) of these to the mesh's axes, or to None for axes that stay whole.
            With pairs a logical axis may come several times: the first is taken whose axis of the
            mesh the parameter has free.
        batch: As for `data_parallel`.

    Returns:
        The placement.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If a pattern is no regular expression, or an axis is none of the mesh; or,
            when the run begins, if a pattern is found in no path, a parameter can't be cut so, or
            the model has no annotations.

    Example:
        >>> import jax, odyssey_jax as ody
        >>> from jax.sharding import PartitionSpec as P
        >>> mesh = jax.make_mesh((1, 1), ("data", "model"))
        >>> rules = {"kernel$": P(None, "model"), "embedding$": P("model")}
        >>> placement = ody.sharded(mesh, rules, batch=P("data"))
    """
    if rules is not None and annotations is not None:
        raise ValueError("rules and annotations are two ways to say the same: give one of them.")
    pairs = annotations.items() if isinstance(annotations, Mapping) else (annotations or ())
    axes = tuple((logical, _hashable_axis(to)) for logical, to in pairs)

    def rules_of(mesh: Mesh, batch: PartitionSpec) -> tuple[Rule, ...]:
        del batch
        for _, to in axes:
            _check_axes("annotations", names_of(to), mesh)
        return (Annotated(mesh, axes) if rules is None else _by_path(rules, mesh),)

    return _on_mesh(mesh, batch, rules_of)


def as_given(mesh: Mesh, *, batch: PartitionSpec | None = None) -> Placement:
    """Keep the parameters where the arrays that the task starts from lie.

    Args:
        mesh: The mesh that they lie on.
        batch: As for `data_parallel`.

    Returns:
        The placement. Moments, averages and best copies lie as the parameters do.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If `batch` is needed, or names an axis that the mesh does not have.

    Example:
        >>> import jax, odyssey_jax as ody
        >>> placement = ody.parallel.as_given(jax.make_mesh((1,), ("data",)))
    """
    return _on_mesh(mesh, batch, lambda *_: (AsGiven(),))


def one_device() -> Placement:
    """Leave everything on JAX's default device, however many there are.

    Returns:
        The placement.

    Example:
        >>> import odyssey_jax as ody
        >>> ody.parallel.one_device()
        OneDevice()
    """
    return OneDevice()


def _on_mesh(
    mesh: Mesh | None,
    batch: PartitionSpec | None,
    rules_of: Callable[[Mesh, PartitionSpec], tuple[Rule, ...]],
) -> OnMesh:
    if mesh is None:
        mesh = jax.sharding.get_mesh()
        if mesh.empty:
            mesh = Mesh(np.array(jax.devices()), ("data",))
    if not isinstance(mesh, Mesh):
        raise TypeError(
            "mesh must be a jax.sharding.Mesh, such as jax.make_mesh((8,), ('data',)), got "
            f"{type(mesh).__name__}."
        )
    if batch is None:
        if len(mesh.axis_names) > 1:
            raise ValueError(
                f"batch must say which of the mesh's axes {mesh.axis_names} a batch is cut along, "
                f"such as PartitionSpec({mesh.axis_names[0]!r}); PartitionSpec() cuts it along "
                "none."
            )
        batch = PartitionSpec(*mesh.axis_names)
    if not isinstance(batch, PartitionSpec):
        raise TypeError(
            "batch must be a jax.sharding.PartitionSpec, such as PartitionSpec('data'), got "
            f"{batch!r}."
        )
    if len(batch) > 1:
        raise ValueError(
            f"batch={batch} cuts {len(batch)} axes of a batch, and it is cut along its first "
            f"alone: pass a spec with that entry."
        )
    _check_axes("batch", _axes_of(batch), mesh)
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    explicit = tuple(name for name, kind in kinds.items() if kind is AxisType.Explicit)
    automatic = Mesh(mesh.devices, mesh.axis_names)
    return OnMesh(automatic, batch, rules_of(automatic, batch), explicit)


def _by_path(rules: Mapping[str, PartitionSpec], mesh: Mesh) -> ByPath:
    patterns = as_patterns(rules)
    for pattern, spec in patterns:
        _check_axes(f"rules[{pattern!r}]", _axes_of(spec), mesh)
    return ByPath(patterns)


def _axes_of(spec: PartitionSpec) -> tuple[str, ...]:
    return tuple(name for entry in spec for name in names_of(entry))


def _check_axes(what: str, names: Sequence[str], mesh: Mesh) -> None:
    for name in names:
        if name not in mesh.axis_names:
            raise ValueError(
                f"{what} names {name!r}, which is no axis of the mesh: {mesh.axis_names}."
            )


def _hashable_axis(axis: Any) -> Any:
    return axis if axis is None or isinstance(axis, str) else tuple(axis)


def placement_of(state: Any) -> Placement:
    """Return the placement that a train state has, where it lies over a mesh.

    Batches are cut along the mesh's axis where it has only one, and else not at all.
    """
    states = (state.params, state.model_state)
    shardings = [getattr(x, "sharding", None) for x in jax.tree.leaves(states)]
    meshes = [x.mesh for x in shardings if isinstance(x, NamedSharding) and x.mesh.size > 1]
    if not meshes:
        return OneDevice()
    mesh = cast(Mesh, meshes[0])
    one = len(mesh.axis_names) == 1
    batch = PartitionSpec(mesh.axis_names[0]) if one else PartitionSpec()
    return _on_mesh(mesh, batch, lambda *_: (AsGiven().of(None, lambda: states),))


def placement_for(divides: Callable[[int], bool]) -> tuple[Placement, str | None]:
    """Choose a placement where none is given: all devices, where the batches divide.

    Args:
        divides: Whether the training batches can be cut into so many parts.

    Returns:
        The placement, and what to say of devices that it leaves idle, or None.
    """
    devices = jax.device_count()
    if jax.process_count() > 1:
        return data_parallel(), None
    if devices == 1 or jax.config.jax_default_device is not None:  # pyright: ignore
        return OneDevice(), None
    if divides(devices):
        return data_parallel(), None
    idle = (
        f"training on {jax.devices()[0]}, and {devices - 1} more device(s) idle, since the batches "
        f"can't be cut into {devices}: choose a batch_size that is a multiple of {devices}, or "
        "pass placement=ody.parallel.one_device() to leave it so"
    )
    return OneDevice(), idle
