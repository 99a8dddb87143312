"""The mean of an output over examples, by a sum in float32 that does not drift."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax._direction import Mode, direction
from odyssey_jax._types import real_dtype
from odyssey_jax.metrics._metric import along, kept, missing, pytree_dataclass


@pytree_dataclass
class Mean:
    """The mean of one output, weighted by examples, so that a small last batch counts right.

    `mean = sum_i w_i x_i / sum_i w_i`. An output that is a scalar (the mean over its batch,
    as a loss is) counts with the batch's `weight`; an output with one value for each example,
    or for each token, counts once for each value that the mask keeps.

    Both sums are compensated float32 (two numbers each, about 48 bits): a long epoch neither
    drifts nor stops counting at 2**24 examples. The mean is float32, exact to its rounding
    and that of the values. A NaN or infinity that was observed is in the mean, whatever
    follows; one under the mask, or in a batch of weight 0, was not observed.

    Attributes:
        output: Name of the output to average.
        mask: Name of the output that says which values count; None is "mask", where there is one.
        weight: Name of the output that says how much each counts: of an array one for each value,
            or for each along its leading axes, of any real dtype; of a scalar a scalar. None is
            "weight", where there is one, and for scalars alone.
        sums: The sum of weighted values and the sum of weights, float32[2, 2]. One array, so
            that a compiled step updates it by one operation.

    Raises:
        ValueError: If `output`, `mask` or `weight` is not a name.

    Source:
        As `clu.metrics.Average.from_output`, which counts each batch alike.

    Example:
        >>> mean = Mean("loss").empty()
        >>> for loss, examples in [(1.0, 128), (4.0, 64)]:
        ...     mean = mean.merge(mean.from_model_output(loss=loss, weight=examples))
        >>> float(mean.compute())
        2.0

        Several masks, or weights, in one run:

        >>> import jax.numpy as jnp
        >>> outputs = {"error": jnp.array([1.0, 3.0]), "hard": jnp.array([0, 1]),
        ...            "area": jnp.array([3.0, 1.0])}
        >>> for mean in (Mean("error", mask="hard"), Mean("error", weight="area")):
        ...     print(float(mean.from_model_output(**outputs).compute()), end=" ")
        3.0 1.5
    """

    output: str = dataclasses.field(default="loss", metadata={"static": True})
    mask: str | None = dataclasses.field(default=None, kw_only=True, metadata={"static": True})
    weight: str | None = dataclasses.field(default=None, kw_only=True, metadata={"static": True})
    sums: jax.Array = dataclasses.field(default_factory=lambda: _no_sums(2), repr=False)

    def __post_init__(self):
        named = {"output": self.output}
        named |= {k: v for k in ("mask", "weight") if (v := getattr(self, k)) is not None}
        for field, name in named.items():
            if not (isinstance(name, str) and name):
                raise ValueError(
                    f"Mean needs the name of an output, such as 'loss', got {field}={name!r}."
                )

    def __repr__(self) -> str:
        named = (f", {k}={v!r}" for k in ("mask", "weight") if (v := getattr(self, k)) is not None)
        return f"Mean({self.output!r}{''.join(named)})"

    @property
    def mode(self) -> Mode | None:
        """Whether "min" or "max" is better, as far as the output's name says so."""
        return direction(self.output)

    def empty(self) -> Mean:
        """Return the mean of nothing, of the same output."""
        return self._with(_no_sums(2))

    def from_model_output(self, **outputs: Any) -> Mean:
        """Return the mean over one batch.

        Args:
            **outputs: The output of this mean's name, a scalar or [batch, ...], real, integer
                or bool. For a scalar, `weight`, a scalar: the number of examples it stands
                for (without it the number that `mask` keeps, and without that 1). For an
                array, `mask`, bool or 0/1, of its shape or of its leading axes (without it
                every value counts, once). Others are ignored.

        Returns:
            The mean over this batch alone.

        Raises:
            ValueError: If the output is not there, is complex, or the shapes do not fit.

        Example:
            >>> batch = {"error": jnp.array([1.0, 3.0, 9.0]), "mask": jnp.array([1, 1, 0])}
            >>> float(Mean("error").from_model_output(**batch).compute())
            2.0
        """
        who = repr(self)
        for name in (self.output, self.mask, self.weight):
            if name is not None and outputs.get(name) is None:
                raise missing(who, repr(name), outputs)
        value = jnp.asarray(outputs[self.output])
        mask, weight = outputs.get(self.mask or "mask"), outputs.get(self.weight or "weight")
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            raise ValueError(f"{who} needs real values, got {value.dtype}.")
        value = value.astype(real_dtype(value))
        if value.ndim:
            keep = kept(who, mask, value.shape)
            count = jnp.sum(keep, dtype=jnp.int32).astype(value.dtype)
            if self.weight is not None:
                each = jnp.where(keep, along(who, "weight", weight, value.shape), 0)
                each = each.astype(value.dtype)
                keep, value, count = each != 0, value * each, jnp.sum(each)
            total = jnp.sum(jnp.where(keep, value, jnp.zeros_like(value)))
        else:
            count = _weight(who, weight, mask).astype(value.dtype)
            # A batch of padding only has the loss 0/0 and the weight 0.
            total = jnp.where(count == 0, jnp.zeros_like(value), value * count)
        return self._with(_sum_of(jnp.stack([total, count])))

    def merge(self, other: Mean) -> Mean:
        """Return the mean over the examples of both; commutative, associative to rounding."""
        if repr(self) != repr(other):
            raise ValueError(f"{self!r} cannot be merged with {other!r}.")
        return self._with(_sum_added(self.sums, other.sums))

    def compute(self) -> jax.Array:
        """Return the mean, a float32 scalar; NaN if there was nothing to average.

        Example:
            >>> float(Mean("loss").compute())
            nan
        """
        sums = _sum_value(self.sums)
        return sums[..., 0] / sums[..., 1]

    def _with(self, sums: Any) -> Mean:
        return dataclasses.replace(self, sums=sums)


def _weight(who: str, weight: Any, mask: Any) -> jax.Array:
    if weight is None:
        weight = 1 if mask is None else jnp.sum(jnp.asarray(mask).astype(bool))
    weight = jnp.asarray(weight).astype(jnp.float32)
    if weight.ndim:
        raise ValueError(
            f"{who} is a scalar for the whole batch and needs a scalar weight, the number of "
            f"examples, got a weight of shape {list(weight.shape)}."
        )
    return weight


# A running sum is two float32: the sum, and what rounding took from it. A plain float32 sum of n
# terms may be off by n units in the last place, and stops counting altogether at 2**24. The two
# carry about 48 bits between them, need no float64 (which JAX has off by default and a TPU has
# not at all), and are carried and merged like any other array.
#
# D. E. Knuth, The Art of Computer Programming, volume 2, section 4.2.2 (the exact error of a sum);
# T. J. Dekker, A floating-point technique for extending the available precision, Numerische
# Mathematik 18 (1971) (sums of pairs).


def _no_sums(n: int) -> Any:
    """Return n sums of nothing, [n, 2] of (sum, rounding error); values even in a trace."""
    return np.zeros((n, 2), np.float32)


def _sum_of(term: jax.Array) -> jax.Array:
    """Return the sum of one term: [...] becomes [..., 2]."""
    return jnp.stack([term, jnp.zeros_like(term)], axis=-1)


def _sum_added(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the sum of two sums, each of shape [..., 2]."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    high, error = _exact_sum(a[..., 0], b[..., 0])
    high, error = _exact_sum(high, error + (a[..., 1] + b[..., 1]))
    return jnp.stack([high, error], axis=-1)


def _sum_value(total: jax.Array) -> jax.Array:
    """Return the sum as one float32: [..., 2] becomes [...]."""
    total = jnp.asarray(total)
    return total[..., 0] + total[..., 1]


def _exact_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return fl(a + b), and a + b - fl(a + b) exactly."""
    total = a + b
    b_seen = total - a
    error = (a - (total - b_seen)) + (b - b_seen)
    # Infinity less infinity is NaN: an infinite sum has no error, and stays infinite.
    return total, jnp.where(jnp.isfinite(total), error, jnp.zeros_like(error))
