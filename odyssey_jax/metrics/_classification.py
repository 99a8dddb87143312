"""Metrics of classification: the accuracy, and the confusion matrix with what is read off it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._types import Mode
from odyssey_jax.metrics._metric import kept, missing, pytree_dataclass

_NO_CLASS = -1

Over = Literal["true", "pred", "all"]
Average = Literal["macro", "micro", "weighted"] | None

_AXES = {"true": (-1,), "pred": (-2,), "all": (-2, -1)}
_AVERAGES = (None, "macro", "micro", "weighted")

# Not None, which is a pytree of its own: a state mapped to None must keep its None.
_UNSET = cast(jax.Array, object())


def _no_count() -> Any:
    # NumPy: an empty metric made while JAX traces is a value all the same.
    return np.zeros((), np.int32)


@pytree_dataclass
class Accuracy:
    """The share of examples whose predicted class is the label.

    `accuracy = #{i : argmax_c logits[i, c] = labels[i]} / #{i}`, over the examples `i` that
    the mask keeps. Counts are integers, so it is exact, up to 2**31 - 1 examples. Logits
    with a NaN predict no class, and a label that is not a class is never right.

    Attributes:
        mask: Name of the output that says which examples count; None is "mask", where there is one.
        correct: The number of examples predicted right, int32.
        count: The number of examples, int32.

    Source:
        As `clu.metrics.Accuracy`, which counts in float32.

    Example:
        >>> import jax.numpy as jnp
        >>> from odyssey_jax import Accuracy
        >>> logits, labels = jnp.array([[0.9, 0.1], [0.2, 0.8]]), jnp.array([0, 0])
        >>> float(Accuracy().from_model_output(logits=logits, labels=labels).compute())
        0.5
    """

    mode: ClassVar[Mode | None] = "max"

    mask: str | None = dataclasses.field(default=None, kw_only=True, metadata={"static": True})
    correct: jax.Array = dataclasses.field(default_factory=_no_count, repr=False)
    count: jax.Array = dataclasses.field(default_factory=_no_count, repr=False)

    def empty(self) -> Accuracy:
        """Return the accuracy over nothing."""
        return Accuracy(mask=self.mask)

    def from_model_output(self, **outputs: Any) -> Accuracy:
        """Return the accuracy over one batch.

        Args:
            **outputs: `labels`, class indices [...], integer; `logits`, scores [..., classes]
                of which the greatest wins, or without them `predictions`, class indices
                [...], integer; and perhaps `mask`, bool or 0/1, of the shape of labels or of
                its leading axes (without it every example counts). Others are ignored.

        Returns:
            The accuracy over this batch alone.

        Raises:
            ValueError: If an output is missing, or of another shape or dtype.
        """
        labels, predictions, keep = _labels_and_predictions("Accuracy", outputs, self.mask)
        right = keep & (predictions == labels) & (labels >= 0)
        counts = (jnp.sum(flags, dtype=jnp.int32) for flags in (right, keep))
        return Accuracy(*counts, mask=self.mask)

    def merge(self, other: Accuracy) -> Accuracy:
        """Return the accuracy over the examples of both; associative and commutative."""
        if self.mask != other.mask:
            raise ValueError(f"{self!r} cannot be merged with {other!r}.")
        counts = self.correct + other.correct, self.count + other.count
        return Accuracy(*counts, mask=self.mask)

    def compute(self) -> jax.Array:
        """Return the accuracy, a float32 scalar; NaN if there were no examples.

        Example:
            >>> float(Accuracy().compute())
            nan
        """
        return jnp.asarray(self.correct, jnp.float32) / jnp.asarray(self.count, jnp.float32)


@pytree_dataclass
class ConfusionMatrix:
    """Counts of examples by true and predicted class.

    `counts[t, p] = #{i : labels[i] = t, predicted[i] = p}`, over the examples `i` that the
    mask keeps. An example whose label or prediction is not a class (below 0, `num_classes`
    and above, logits with a NaN) is in no cell; `ignored` says how many there were. Exact,
    up to 2**31 - 1 examples.

    A matrix with leading axes (a population's) gives every result with those axes.

    Attributes:
        num_classes: The number of classes, at least 2.
        mask: Name of the output that says which examples count; None is "mask", where there is one.
        counts: int32[num_classes, num_classes], true class by row, predicted by column.
        ignored: The number of examples outside the classes, int32.

    Raises:
        ValueError: If `num_classes` is not an integer of at least 2.

    Source:
        `sklearn.metrics.confusion_matrix`, and `precision_recall_fscore_support` with
        `zero_division=0`.

    Example:
        >>> import jax.numpy as jnp
        >>> from odyssey_jax import ConfusionMatrix
        >>> labels, predictions = jnp.array([0, 1, 1, 2]), jnp.array([0, 1, 2, 2])
        >>> matrix = ConfusionMatrix(3).from_model_output(labels=labels, predictions=predictions)
        >>> matrix.compute().tolist()
        [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
        >>> matrix.recall().tolist()
        [1.0, 0.5, 1.0]
    """

    mode: ClassVar[Mode | None] = None

    num_classes: int = dataclasses.field(metadata={"static": True})
    mask: str | None = dataclasses.field(default=None, kw_only=True, metadata={"static": True})
    counts: jax.Array = dataclasses.field(default=_UNSET, repr=False)
    ignored: jax.Array = dataclasses.field(default=_UNSET, repr=False)

    def __post_init__(self):
        n = self.num_classes
        if not isinstance(n, int) or isinstance(n, bool) or n < 2:
            raise ValueError(
                f"ConfusionMatrix needs an integer num_classes of at least 2, got {n!r}."
            )
        if self.counts is _UNSET:
            object.__setattr__(self, "counts", np.zeros((n, n), np.int32))
        if self.ignored is _UNSET:
            object.__setattr__(self, "ignored", np.zeros((), np.int32))

    def empty(self) -> ConfusionMatrix:
        """Return the matrix of no examples, of as many classes."""
        return ConfusionMatrix(self.num_classes, mask=self.mask)

    def from_model_output(self, **outputs: Any) -> ConfusionMatrix:
        """Return the matrix of one batch.

        Args:
            **outputs: `labels`, class indices [...], integer; `logits`, scores
                [..., num_classes] of which the greatest wins, or without them `predictions`,
                class indices [...], integer; and perhaps `mask`, bool or 0/1, of the shape of
                labels or of its leading axes (without it every example counts). Others are
                ignored.

        Returns:
            The matrix of this batch alone.

        Raises:
            ValueError: If an output is missing, of another shape or dtype, or the logits are of
                another number of classes.
        """
        n, who = self.num_classes, repr(self)
        true, predicted, keep = _labels_and_predictions(who, outputs, self.mask)
        logits = outputs.get("logits")
        if logits is not None and jnp.shape(logits)[-1] != n:
            raise ValueError(
                f"{who} needs logits of {n} classes, got logits {list(jnp.shape(logits))}."
            )
        known = keep & (true >= 0) & (true < n) & (predicted >= 0) & (predicted < n)
        # Past the end, where a scatter drops it; a negative index would count from the end.
        cell = jnp.where(known, true * n + predicted, n * n).reshape(-1)
        counts = jnp.zeros(n * n, jnp.int32).at[cell].add(1, mode="drop").reshape(n, n)
        ignored = jnp.sum(keep & ~known, dtype=jnp.int32)
        return ConfusionMatrix(n, counts, ignored, mask=self.mask)

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Return the matrix of the examples of both; associative and commutative."""
        if (self.num_classes, self.mask) != (other.num_classes, other.mask):
            raise ValueError(f"{self!r} cannot be merged with {other!r}.")
        counts = self.counts + other.counts, self.ignored + other.ignored
        return ConfusionMatrix(self.num_classes, *counts, mask=self.mask)

    def compute(self) -> jax.Array:
        """Return the counts, int32[num_classes, num_classes], true class by row."""
        return self.counts

    def normalized(self, over: Over) -> jax.Array:
        """Return the counts as shares of their row, of their column, or of all.

        Args:
            over: "true" divides each row by its sum (the diagonal is the recall), "pred" each
                column (the diagonal is the precision), "all" every count by the sum of all.

        Returns:
            float32[num_classes, num_classes]; 0 where there is nothing to divide by.

        Raises:
            ValueError: If `over` is another.

        Example:
            >>> ConfusionMatrix(2, jnp.array([[3, 1], [0, 0]])).normalized("true").tolist()
            [[0.75, 0.25], [0.0, 0.0]]
        """
        if over not in _AXES:
            raise ValueError(f"over must be one of 'true', 'pred', 'all', got {over!r}.")
        return _share(self.counts, jnp.sum(self.counts, axis=_AXES[over], keepdims=True))

    def support(self) -> jax.Array:
        """Return the number of examples of each true class, int32[num_classes]."""
        return jnp.sum(self.counts, axis=-1)

    def precision(self, average: Average = None) -> jax.Array:
        """Return the share of what was predicted as a class that is of it: `TP / (TP + FP)`.

        Args:
            average: None for each class; "macro" for the mean over classes, "weighted" for
                that mean weighted by support, "micro" for the ratio of the sums over classes.

        Returns:
            float32[num_classes], or a scalar if averaged; 0 for a class never predicted.

        Raises:
            ValueError: If `average` is another.

        Example:
            >>> ConfusionMatrix(2, jnp.array([[3, 1], [0, 4]])).precision("macro").tolist()
            0.8999999761581421
        """
        return self._hits_over(average, predicted=1.0)

    def recall(self, average: Average = None) -> jax.Array:
        """Return the share of a class that was predicted as it: `TP / (TP + FN)`.

        Args:
            average: As for `precision`.

        Returns:
            float32[num_classes], or a scalar if averaged; 0 for a class that does not occur.

        Raises:
            ValueError: If `average` is another.

        Example:
            >>> ConfusionMatrix(2, jnp.array([[3, 1], [0, 4]])).recall().tolist()
            [0.75, 1.0]
        """
        return self._hits_over(average, predicted=0.0)

    def f1(self, average: Average = None) -> jax.Array:
        """Return the harmonic mean of precision and recall: `2 TP / (2 TP + FP + FN)`.

        Args:
            average: As for `precision`; "macro" is the mean of the classes' F1.

        Returns:
            float32[num_classes], or a scalar if averaged; 0 for a class that neither occurs
            nor is predicted.

        Raises:
            ValueError: If `average` is another.

        Example:
            >>> ConfusionMatrix(2, jnp.array([[2, 2], [0, 4]])).f1("micro").tolist()
            0.75
        """
        return self._hits_over(average, predicted=0.5)

    def _hits_over(self, average: Average, predicted: float) -> jax.Array:
        """Return `TP / (a (TP + FP) + (1 - a) (TP + FN))`: `a` is 1, 0 and 1/2 in turn."""
        if average not in _AVERAGES:
            raise ValueError(
                f"average must be one of None, 'macro', 'micro', 'weighted', got {average!r}."
            )
        support = self.support().astype(jnp.float32)
        hits = jnp.diagonal(self.counts, axis1=-2, axis2=-1).astype(jnp.float32)
        found = jnp.sum(self.counts, axis=-2).astype(jnp.float32)
        out_of = predicted * found + (1 - predicted) * support
        if average == "micro":
            return _share(jnp.sum(hits, axis=-1), jnp.sum(out_of, axis=-1))
        each = _share(hits, out_of)
        if average == "macro":
            return jnp.mean(each, axis=-1)
        if average == "weighted":
            return _share(jnp.sum(each * support, axis=-1), jnp.sum(support, axis=-1))
        return each


def _share(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Return part / whole in float32, and 0 where whole is 0."""
    part, whole = part.astype(jnp.float32), whole.astype(jnp.float32)
    return jnp.where(whole == 0, jnp.zeros_like(part), part / jnp.where(whole == 0, 1, whole))


def _labels_and_predictions(
    who: str, outputs: Mapping[str, Any], mask: str | None
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
    if mask is not None and outputs.get(mask) is None:
        raise missing(who, repr(mask), outputs)
    return labels, predicted, kept(who, outputs.get(mask or "mask"), labels.shape)


def _argmax(who: str, logits: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if logits.ndim == 0 or logits.shape[:-1] != shape:
        raise ValueError(
            f"{who} needs logits [..., classes] and integer labels [...], got logits "
            f"{list(logits.shape)} and labels {list(shape)}. Labels are class indices: of "
            "one-hot labels pass labels.argmax(-1)."
        )
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    # argmax takes a NaN for the greatest, which would make it right now and then.
    return jnp.where(jnp.isnan(jnp.max(logits, axis=-1)), _NO_CLASS, best)


def _class_index(who: str, name: str, x: jax.Array) -> jax.Array:
    if not (jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool):
        raise ValueError(f"{who} needs integer {name}, got {name} of dtype {x.dtype}.")
    if x.dtype.itemsize < 4 or x.dtype == jnp.int32:
        return x.astype(jnp.int32)
    # A plain cast wraps: of an unsigned or 64-bit label it could make another class.
    representable = (x >= 0) & (x <= jnp.iinfo(jnp.int32).max)
    return jnp.where(representable, x, jnp.zeros_like(x)).astype(jnp.int32) + jnp.where(
        representable, 0, _NO_CLASS
    )
