"""Metrics of a whole evaluation, computed on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from odyssey_jax.callbacks import When
from odyssey_jax.feed import predict_outputs
from odyssey_jax.fit._hooks import Hook, View, hook
from odyssey_jax.train import as_sets


@dataclasses.dataclass(frozen=True)
class Collect(Hook):
    """The hook that `collect` makes; `bound` to a plan it knows the task and the data."""

    outputs: tuple[str, ...] = ()
    valid: str | None = None

    def bound(self, plan: Any) -> Hook:
        """Return the hook that reads a plan's validation data.

        Raises:
            ValueError: If there is no such set, or the processes would each see a share.
        """
        sets = {name or "valid": x for name, x in as_sets(plan.valid).items()}
        if (self.valid is None and len(sets) != 1) or self.valid not in (None, *sets):
            raise ValueError(
                f"collect(valid={self.valid!r}) must be one of the sets of the validation data, "
                f"which are {list(sets)}."
            )
        if jax.process_count() > 1:
            raise ValueError(
                "collect gathers every example in one process, and there are "
                f"{jax.process_count()}: use a metric that merges, such as ody.Mean."
            )
        (column,) = self.columns
        which = self.valid or next(iter(sets))
        own = plan.evaluations.get(which) or plan.evaluations.get("")
        batches = None if own is None else own.batches
        steps = plan.valid_steps if batches is None else batches

        def function(view: View) -> dict[str, Any]:
            where = {"seed": plan.seed, "step": view.step, "total_steps": plan.last_step}
            found = predict_outputs(
                plan.task, view.state, sets[which], self.outputs, steps=steps, **where
            )
            return {column: self.function(*(found[name] for name in self.outputs))}

        return hook(function, self.when, (column,))


def collect(
    outputs: str | Sequence[str],
    function: Callable[..., Any],
    when: When | None = None,
    *,
    name: str | None = None,
    valid: str | None = None,
) -> Hook:
    """Compute a metric of all examples of the validation data at once, for `fit(hooks=[...])`.

    For metrics that don't merge over batches, such as average precision or a correlation of ranks.
    The task's outputs are gathered on the host, example by example, without those of which an
    output "mask" keeps nothing (the padding of `pad_to`). It costs one more pass over the data each
    time, and the host's memory for what is gathered; other outputs are not fetched.

    Args:
        outputs: Names of the task's outputs, each an array [batch, ...].
        function: Is given a NumPy array [examples, ...] for each, and returns a number.
        when: At the ends of which epochs; None is each.
        name: The column's; None is the function's own name.
        valid: The set, where there are several.

    Returns:
        A hook with one column: see `hook`.

    Raises:
        TypeError: If `function` can't be called.
        ValueError: If an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax, odyssey_jax as ody
        >>> def loss(w, batch):
        ...     errors = (w - batch) ** 2
        ...     return errors.mean(), {"errors": errors}
        >>> task = ody.pure_task(jnp.zeros(()), loss)
        >>> data = ody.ArrayDataset(jnp.arange(5.0), batch_size=2)
        >>> median = ody.collect("errors", np.median, ody.every(epochs=2))
        >>> result = ody.fit(task, optax.sgd(0.0), data, data, epochs=2, hooks=[median],
        ...                  writers=[])
        >>> result.history["median"].tolist()
        [nan, 4.0]
    """
    names = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    if not names or not all(isinstance(x, str) and x for x in names):
        raise ValueError(f"outputs must be names such as ('targets', 'scores'), got {outputs!r}.")
    name = getattr(function, "__name__", None) if name is None else name
    if not isinstance(name, str) or not name.replace("<lambda>", ""):
        raise ValueError(f"name must be given for the column of {function!r}, got {name!r}.")
    made = hook(function, when, (name,))
    return Collect(made.function, made.when, made.columns, outputs=names, valid=valid)
