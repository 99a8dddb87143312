"""What goes by a parameter's path: rates that fall from layer to layer, and what is frozen."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from odyssey_jax._checks import check_flag, check_pattern, check_rate_factor
from odyssey_jax._opt_state import Parts, with_named_args
from odyssey_jax._types import PyTree


class ScaleByLayerState(NamedTuple):
    """The state of `scale_by_layer`.

    Attributes:
        factors: Layer to float32 scalar, the factors in force.
    """

    factors: dict[str, jax.Array]


def layer_labels(layers: Sequence[str]) -> Callable[[PyTree], PyTree]:
    r"""Name the layer of each parameter, by patterns that are in the order of the layers.

    A parameter's path is its keys with slashes between them, such as "layers/0/kernel" (NNX) or
    "Dense_0/kernel" (Linen). The first pattern that is found in it decides. What was found is
    the layer's name; a pattern with a group, such as `layers[/_](\d+)`, stands for one layer for
    each number.

    Args:
        layers: Regular expressions, from the input to the output.

    Returns:
        A function: parameters to a tree of names, as `optax.partition` and
        `optax.multi_transform` take it.

    Raises:
        ValueError: If a pattern is no regular expression, or has more than one group; or, for the
            function, a parameter is in no layer.

    Example:
        >>> import odyssey_jax as ody
        >>> params = {"embed": 0.0, "Dense_0": {"kernel": 0.0}, "Dense_1": {"kernel": 0.0}}
        >>> ody.transforms.layer_labels(["embed", r"Dense_(\d+)"])(params)
        {'Dense_0': {'kernel': 'Dense_0'}, 'Dense_1': {'kernel': 'Dense_1'}, 'embed': 'embed'}
    """
    patterns = _compiled(layers)

    def labels(params: PyTree) -> PyTree:
        return jax.tree.map(lambda layer: layer.name, _layers_of(params, patterns))

    return labels


def scale_by_layer(decay: float, layers: Sequence[str]) -> optax.GradientTransformation:
    r"""Scale the updates by a factor that falls from layer to layer, from the output down.

    $$u_l \leftarrow \gamma^{L - 1 - l} \, u_l$$

    for layer $l$ of $L$: the last one keeps the rate. Behind the transformation that has the
    learning rate, it scales each layer's rate (and a weight decay that goes with it); `fit` then
    logs every layer's as "learning_rate/<layer>".

    Args:
        decay: The factor $\gamma$ from one layer to the one below, in (0, 1].
        layers: As for `layer_labels`.

    Returns:
        An Optax transformation.

    Raises:
        ValueError: If an argument is out of its range; or, at `init`, a parameter is in no layer.

    Source:
        Howard and Ruder, "Universal Language Model Fine-tuning" (2018); as used by BEiT and timm.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> params = {"layers": {0: jnp.ones(()), 1: jnp.ones(())}, "head": jnp.ones(())}
        >>> by_layer = ody.transforms.scale_by_layer(0.5, [r"layers/(\d+)", "head"])
        >>> optimizer = optax.chain(optax.sgd(0.1), by_layer)
        >>> updates, _ = optimizer.update(params, optimizer.init(params))
        >>> print(updates["head"], updates["layers"][1], updates["layers"][0])
        -0.1 -0.05 -0.025
    """
    check_rate_factor("decay", decay)
    patterns = _compiled(layers)

    def factors(tree: PyTree) -> tuple[PyTree, dict[str, float]]:
        of = _layers_of(tree, patterns)
        found = jax.tree.leaves(of)
        # By depth and not by name: one pattern may find "Dense_0" and "LayerNorm_0", one layer.
        depths = sorted({layer.depth for layer in found}, reverse=True)
        by_depth = {depth: decay**up for up, depth in enumerate(depths)}
        by_name = {layer.name: by_depth[layer.depth] for layer in found}
        return jax.tree.map(lambda layer: by_depth[layer.depth], of), by_name

    def in_force(by_name: dict[str, float]) -> ScaleByLayerState:
        return ScaleByLayerState({k: jnp.asarray(v, jnp.float32) for k, v in by_name.items()})

    def init(params: PyTree) -> ScaleByLayerState:
        return in_force(factors(params)[1])

    def update(updates, state, params=None):
        # Not from the state: another decay applies after a resume.
        del params, state
        tree, by_name = factors(updates)
        scaled = jax.tree.map(lambda u, f: u * jnp.asarray(f, u.dtype), updates, tree)
        return scaled, in_force(by_name)

    return optax.GradientTransformation(init, update)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer and its place; no pytree, so that a tree may have it for a leaf."""

    depth: tuple[int, int]
    name: str


def _compiled(layers: Sequence[str]) -> list[re.Pattern[str]]:
    if isinstance(layers, str) or not layers:
        raise ValueError(
            f"layers must be a sequence of patterns, from the input to the output; got {layers!r}."
        )
    patterns = []
    for layer in layers:
        pattern = check_pattern("layers", layer)
        if pattern.groups > 1:
            raise ValueError(
                f"layers: {layer!r} has {pattern.groups} groups, and may have one, for the "
                "layer's number; (?:...) groups without counting."
            )
        patterns.append(pattern)
    return patterns


def _number(found: re.Match[str], name: str) -> int:
    """Return the layer's number, which is what the pattern's group has found; 0 without a group."""
    if not found.re.groups:
        return 0
    if not (found[1] or "").isdecimal():
        raise ValueError(
            f"layers: the group of {found.re.pattern!r} must be the layer's number, and in the "
            f"parameter {name!r} it is {found[1]!r}: write (\\d+) for it; (?:...) is no group."
        )
    return int(found[1])


def _layers_of(params: PyTree, patterns: Sequence[re.Pattern[str]]) -> PyTree:
    def of(path: Any, leaf: Any) -> _Layer:
        del leaf
        name = _name(path)
        for index, pattern in enumerate(patterns):
            found = pattern.search(name)
            if found:
                return _Layer((index, _number(found, name)), found[0])
        raise ValueError(
            f"layers: the parameter {name!r} is in none of {[p.pattern for p in patterns]}: add a "
            "pattern for it, in its place from the input to the output."
        )

    return jax.tree_util.tree_map_with_path(of, params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FreezeState:
    """The state of `freeze`.

    Attributes:
        inner: The state of `optax.partition`.
        frozen: The frozen parameters' paths (static).
        patterns: What they were found by (static).
        hold_state: As given to `freeze` (static).
    """

    inner: PyTree
    frozen: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    patterns: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    hold_state: bool | None = dataclasses.field(default=None, metadata={"static": True})


def frozen_names(opt_state: PyTree) -> frozenset[str]:
    """Return the paths of the parameters that each `freeze` in an optimizer's state freezes."""
    is_one = lambda x: isinstance(x, (FreezeState, Parts))
    found: frozenset[str] = frozenset()
    for node in filter(is_one, jax.tree.leaves(opt_state, is_leaf=is_one)):
        if isinstance(node, Parts):
            found |= {f"{part}/{x}" for part, own in node.items() for x in frozen_names(own)}
        else:
            found |= frozenset(node.frozen) | frozen_names(node.inner)
    return found


def state_of_frozen(
    opt_state: PyTree, params: PyTree, model_state: PyTree
) -> dict[str, bool | None]:
    """Return the paths in a model's state that each `freeze` is of, and whether it holds them.

    Of Linen a path begins with its collection, such as "batch_stats/", which no pattern knows.
    """
    known = params.keys() if isinstance(params, Mapping) else ()
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(model_state)]
    within = {x: x if x.split("/")[0] in known else x.partition("/")[2] for x in names}
    found: dict[str, bool | None] = {}

    def look(tree: PyTree, part: str) -> None:
        is_one = lambda x: isinstance(x, (FreezeState, Parts))
        for node in filter(is_one, jax.tree.leaves(tree, is_leaf=is_one)):
            if isinstance(node, Parts):
                for name, own in node.items():
                    look(own, f"{part}{name}/")
                continue
            for name, inner in within.items():
                own = inner.removeprefix(part)
                mine = inner.startswith(part) and any(re.search(x, own) for x in node.patterns)
                if mine and not found.get(name):
                    found[name] = node.hold_state
            look(node.inner, part)

    look(opt_state, "")
    return found


def with_held_state(opt_state: PyTree, params: PyTree, new: PyTree, old: PyTree) -> PyTree:
    """Return a model's state with what `freeze(hold_state=True)` holds as it was."""
    held = {name for name, hold in state_of_frozen(opt_state, params, old).items() if hold}
    if not held:
        return new
    keep = lambda path, x, was: was if _name(path) in held else x
    return jax.tree_util.tree_map_with_path(keep, new, old)


def freeze(
    optimizer: optax.GradientTransformation,
    frozen: Sequence[str],
    *,
    hold_state: bool | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Train all parameters but those that a pattern is found in.

    A parameter's path is its keys with slashes between them, as for `layer_labels`. The frozen
    ones have no place in the optimizer's state (no moments), and no gradient is used, weight
    decay included. In `fit` they are not differentiated, so they count neither in clipping nor
    in the logged norms, and stay as they are to the bit. To train a small part of a large model,
    or to keep integers among its parameters, divide them by the task's `trainable=`.

    What the model itself updates, such as the batch statistics of a frozen layer, is no parameter
    and moves on, unless `hold_state` is True. That holds the running statistics, with which the
    model is evaluated; in training a layer in train mode still normalises by its batch, unless its
    own flag says otherwise (`use_running_average=True`).

    Args:
        optimizer: Trains the others.
        frozen: Regular expressions, each found in at least one parameter's path.
        hold_state: Whether the model's state that a pattern is found in the path of stays as it
            is, too. False lets it move; None does as well, and `fit` says on stderr what moves.

    Returns:
        An Optax transformation: `optax.partition`, with labels "frozen" and "trained"; its
        state is a `FreezeState`.

    Raises:
        ValueError: If a pattern is no regular expression, or `hold_state` no bool; or, at `init`, a
            pattern is found in no parameter, or nothing is left to train.

    Example:
        >>> import jax.numpy as jnp, optax, odyssey_jax as ody
        >>> params = {"encoder": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
        >>> optimizer = ody.freeze(optax.sgd(0.1), ["encoder/"])
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> print(updates["encoder"]["kernel"], updates["head"]["kernel"])
        [0. 0.] [-0.1 -0.1]
    """
    patterns = _patterns("frozen", frozen)
    if hold_state is not None:
        check_flag("hold_state", hold_state)
    texts = tuple(pattern.pattern for pattern in patterns)
    is_frozen = lambda name: any(pattern.search(name) for pattern in patterns)

    def names_of(params: PyTree) -> tuple[str, ...]:
        names = _names(params)
        _check_found("frozen", patterns, names)
        if all(map(is_frozen, names)):
            raise ValueError(f"frozen: {list(frozen)} leave no parameter to train.")
        return tuple(filter(is_frozen, names))

    def labels(params: PyTree) -> PyTree:
        label = lambda path, _: "frozen" if is_frozen(_name(path)) else "trained"
        return jax.tree_util.tree_map_with_path(label, params)

    parts = optax.partition(
        {"trained": with_named_args(optimizer), "frozen": optax.set_to_zero()}, labels
    )

    def init(params: PyTree) -> PyTree:
        names = names_of(params)
        return FreezeState(parts.init(params), names, texts, hold_state)

    def update(updates, state, params=None, **extra) -> tuple[PyTree, PyTree]:
        updates, inner = parts.update(updates, state.inner, params, **extra)
        return updates, dataclasses.replace(state, inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


def divided(params: PyTree, trainable: Sequence[str]) -> tuple[PyTree, PyTree]:
    """Divide parameters into those that a pattern is found in, and the others.

    Args:
        params: The parameters.
        trainable: Regular expressions, each found in at least one parameter's path, as for
            `freeze`.

    Returns:
        Two trees of their structure, each with None in the place of the other's leaves.

    Raises:
        ValueError: If a pattern is no regular expression, or is found in no parameter.

    Example:
        >>> divided({"base": {"w": 1.0}, "head": {"w": 2.0}}, ["^head/"])
        ({'base': {'w': None}, 'head': {'w': 2.0}}, {'base': {'w': 1.0}, 'head': {'w': None}})
    """
    patterns = _patterns("trainable", trainable)
    _check_found("trainable", patterns, _names(params))
    is_mine = lambda path: any(pattern.search(_name(path)) for pattern in patterns)
    part = lambda mine: jax.tree_util.tree_map_with_path(
        lambda path, x: x if is_mine(path) == mine else None, params
    )
    return part(True), part(False)


def united(one: PyTree, other: PyTree) -> PyTree:
    """Return the tree that was divided into these two."""
    is_none = lambda x: x is None
    return jax.tree.map(lambda a, b: b if a is None else a, one, other, is_leaf=is_none)


def _names(params: PyTree) -> list[str]:
    return [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def _patterns(argument: str, patterns: Any) -> list[re.Pattern[str]]:
    """Compile regular expressions, or raise ValueError in the argument's name."""
    if isinstance(patterns, str) or not isinstance(patterns, Sequence) or not patterns:
        raise ValueError(
            f"{argument} must be a sequence of patterns, at least one; got {patterns!r}."
        )
    return [check_pattern(argument, pattern) for pattern in patterns]


def _check_found(argument: str, patterns: Sequence[re.Pattern[str]], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(map(pattern.search, names)):
            raise ValueError(
                f"{argument}: {pattern.pattern!r} is found in no parameter; there are: "
                f"{', '.join(names)}."
            )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
