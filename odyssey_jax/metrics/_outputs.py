"""What metrics ask of a model's outputs: the class predicted, the label, the mask."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

NO_CLASS = -1


def missing(who: str, wanted: str, available: Iterable[str]) -> ValueError:
    """Return the error that says which output a metric lacks, and which there are."""
    names = ", ".join(repr(name) for name in sorted(available)) or "none"
    return ValueError(
        f"{who} needs the output {wanted}, but the outputs are {names}. "
        "Return it from the loss function."
    )


def labels_and_predictions(
    who: str, outputs: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the label, the predicted class (both int32) and whether to count it (bool).

    The class predicted is the argmax of `logits` or, where there are none, `predictions`.
    All three results have the shape of `labels`.
    """
    labels, logits, predictions = map(outputs.get, ("labels", "logits", "predictions"))
    if labels is None:
        raise missing(who, "'labels'", outputs)
    labels = _class_index(who, "labels", jnp.asarray(labels))
    if logits is not None:
        predicted = _argmax(who, jnp.asarray(logits), labels.shape)
    elif predictions is not None:
        predicted = _class_index(who, "predictions", jnp.asarray(predictions))
    else:
        raise missing(who, "'logits' (or 'predictions')", outputs)
    if predicted.shape != labels.shape:
        raise ValueError(
            f"{who} needs predictions of the shape of labels, {list(labels.shape)}, got "
            f"{list(predicted.shape)}. Pass scores by class as 'logits'."
        )
    return labels, predicted, kept(who, outputs.get("mask"), labels.shape)


def kept(who: str, mask: Any, shape: tuple[int, ...]) -> jax.Array:
    """Return the mask as booleans of `shape`, of which it may have the leading axes only."""
    mask = jnp.ones(shape, bool) if mask is None else jnp.asarray(mask)
    if mask.shape != shape[: mask.ndim]:
        raise ValueError(
            f"{who} needs a mask of the shape of the values, {list(shape)}, or of its leading "
            f"axes, got {list(mask.shape)}."
        )
    trailing = (1,) * (len(shape) - mask.ndim)
    return jnp.broadcast_to(mask.astype(bool).reshape(mask.shape + trailing), shape)


def _argmax(who: str, logits: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if logits.ndim == 0 or logits.shape[:-1] != shape:
        raise ValueError(
            f"{who} needs logits [..., classes] and integer labels [...], got logits "
            f"{list(logits.shape)} and labels {list(shape)}. Labels are class indices: of "
            "one-hot labels pass labels.argmax(-1)."
        )
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    # argmax takes a NaN for the greatest, which would make it right now and then.
    return jnp.where(jnp.isnan(jnp.max(logits, axis=-1)), NO_CLASS, best)


def _class_index(who: str, name: str, x: jax.Array) -> jax.Array:
    if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool):
        raise ValueError(f"{who} needs integer {name}, got {name} of dtype {x.dtype}.")
    if x.dtype.itemsize < 4 or x.dtype == jnp.int32:
        return x.astype(jnp.int32)
    # A plain cast wraps: of an unsigned or 64-bit label it could make another class.
    representable = (x >= 0) & (x <= jnp.iinfo(jnp.int32).max)
    return jnp.where(representable, x, jnp.zeros_like(x)).astype(jnp.int32) + jnp.where(
        representable, 0, NO_CLASS
    )
