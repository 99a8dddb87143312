"""The share of examples whose predicted class is the label."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax.metrics import _outputs


def _zero() -> Any:
    # NumPy: an empty metric made while JAX traces is a value all the same.
    return np.zeros((), np.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Accuracy:
    """The share of examples whose predicted class is the label.

    `accuracy = #{i : argmax_c logits[i, c] = labels[i]} / #{i}`, over the examples `i` that
    the mask keeps.  Counts are integers, so it is exact, up to 2**31 - 1 examples.  Logits
    with a NaN predict no class, and a label that is not a class is never right.

    Args:
        correct: the number of examples predicted right, int32.
        count: the number of examples, int32.

    Source: as `clu.metrics.Accuracy`, which counts in float32.

    >>> logits, labels = jnp.array([[0.9, 0.1], [0.2, 0.8]]), jnp.array([0, 0])
    >>> float(Accuracy().from_model_output(logits=logits, labels=labels).compute())
    0.5
    """

    correct: jax.Array = dataclasses.field(default_factory=_zero, repr=False)
    count: jax.Array = dataclasses.field(default_factory=_zero, repr=False)

    def empty(self) -> "Accuracy":
        """Return the accuracy over nothing."""
        return Accuracy()

    def from_model_output(self, **outputs: Any) -> "Accuracy":
        """Return the accuracy over one batch.

        Args:
            **outputs: `labels`, class indices [...], integer; `logits`, scores [..., classes]
                of which the greatest wins, or without them `predictions`, class indices
                [...], integer; and perhaps `mask`, bool or 0/1, of the shape of labels or of
                its leading axes (without it every example counts).  Others are ignored.

        Returns:
            The accuracy over this batch alone.

        Raises:
            ValueError: an output is missing, or of another shape or dtype.
        """
        labels, predictions, keep = _outputs.labels_and_predictions("Accuracy", outputs)
        right = keep & (predictions == labels) & (labels >= 0)
        return Accuracy(jnp.sum(right, dtype=jnp.int32), jnp.sum(keep, dtype=jnp.int32))

    def merge(self, other: "Accuracy") -> "Accuracy":
        """Return the accuracy over the examples of both; associative and commutative."""
        return Accuracy(self.correct + other.correct, self.count + other.count)

    def compute(self) -> jax.Array:
        """Return the accuracy, a float32 scalar; NaN if there were no examples.

        >>> float(Accuracy().compute())
        nan
        """
        return jnp.asarray(self.correct, jnp.float32) / jnp.asarray(self.count, jnp.float32)
