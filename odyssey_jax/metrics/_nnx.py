"""Metrics of `flax.nnx`, which change in place, as pure ones."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from odyssey_jax._pytree import node
from odyssey_jax._types import Mode


class _Outputs(NamedTuple):
    """A batch's outputs, for a metric to take in."""

    named: Mapping[str, Any]


@node
@dataclasses.dataclass(frozen=True, eq=False)
class NnxMetric:
    """A metric of `flax.nnx`: its arrays are the state, and `update` is `merge` with a batch.

    So it is taken from batch to batch, as NNX has it, and two of these can't be merged.
    """

    state: Any
    graphdef: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, metric: Any) -> NnxMetric:
        """Wrap a metric; what it has seen so far is left out of it."""
        return cls(*reversed(metric.split())).empty()

    @property
    def mode(self) -> Mode | None:
        """More of an accuracy is better."""
        from flax import nnx

        return "max" if issubclass(self.graphdef_type, nnx.metrics.Accuracy) else None

    @property
    def graphdef_type(self) -> type[Any]:
        """The metric's class."""
        return type(self._module())

    def _module(self) -> Any:
        from flax import nnx

        # Variables made here: those of another trace can't be changed.
        return nnx.merge(self.graphdef, jax.tree.map(lambda x: x, self.state))

    def empty(self) -> NnxMetric:
        """Return the metric as `reset` leaves it."""
        module = self._module()
        module.reset()
        return NnxMetric(*reversed(module.split()))

    def from_model_output(self, **outputs: Any) -> _Outputs:
        """Return a batch to merge."""
        return _Outputs(outputs)

    def merge(self, batch: _Outputs) -> NnxMetric:
        """Return the metric as `update` leaves it.

        Raises:
            ValueError: If an output that it needs is missing, or it takes no mask and there is one.
        """
        module = self._module()
        _check_mask(module, batch.named)
        parameters = inspect.signature(module.update).parameters
        takes_all = any(x.kind is x.VAR_KEYWORD for x in parameters.values())
        given = {k: x for k, x in batch.named.items() if takes_all or k in parameters}
        try:
            module.update(**given)
        except TypeError as error:
            raise ValueError(
                f"nnx.metrics.{type(module).__name__} can't take the outputs "
                f"{sorted(batch.named)}: {error}. Return from the loss function what it needs, "
                "under this name."
            ) from error
        return NnxMetric(*reversed(module.split()))

    def compute(self) -> Any:
        """Return the value, or several by name."""
        return _values(self._module().compute())


def as_metric(metric: Any) -> Any:
    """Return a metric of `flax.nnx` as a pure one; any other as it is."""
    kind = metric if inspect.isclass(metric) else type(metric)
    theirs = any(
        base.__module__.startswith("flax.nnx") and base.__name__ == "Metric"
        for base in kind.__mro__
    )
    if not theirs:
        return metric
    if inspect.isclass(metric):
        raise TypeError(
            f"metric {kind.__name__} is a class of flax.nnx: pass an instance, {kind.__name__}()."
        )
    return NnxMetric.of(metric)


def _check_mask(module: Any, outputs: Mapping[str, Any]) -> None:
    """Raise ValueError where a mask would be passed over in silence."""
    for name in getattr(module, "_metric_names", ()):
        _check_mask(getattr(module, name), outputs)
    if hasattr(module, "_metric_names") or outputs.get("mask") is None:
        return
    if "mask" not in inspect.signature(module.update).parameters:
        raise ValueError(
            f"nnx.metrics.{type(module).__name__} takes no mask, and the outputs have one: it "
            "would count what is masked. Use ody.Mean, or a metric whose update has a parameter "
            "mask."
        )


def _values(value: Any) -> Any:
    """Return several values by name, of a dataclass as `Welford` computes too."""
    if isinstance(value, Mapping):
        return {name: _values(x) for name, x in value.items()}
    if dataclasses.is_dataclass(value):
        return {x.name: getattr(value, x.name) for x in dataclasses.fields(value)}
    return value
