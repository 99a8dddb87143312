"""The options of the train step, said once: `fit` and the core take the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import jax
import jax.numpy as jnp
from jax import lax

from odyssey_jax._checks import check_columns, check_count, check_kind
from odyssey_jax._types import PyTree
from odyssey_jax.train._average import Averaging, EvalParams
from odyssey_jax.train._user_functions import ByValue, check_function
from odyssey_jax.transforms import LossScale

Samples = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class StepOptions(ByValue):
    """What a train step does beside the gradient and the update.

    `fit` takes each as an argument of its own, `make_loop` all of them as `options`.

    Attributes:
        clip_norm: The largest global norm of a gradient, greater than 0: a larger gradient is
            scaled down to it, after accumulation. None does not clip.
        accumulate_steps: Train steps whose mean gradient makes one update, at least 1. Each
            counts by the examples that it stands for: the sum of the "mask", or the "weight",
            among the loss's outputs, or else the batch's size.
        loss_scale: From `loss_scale`, for a task of `mixed_precision` in float16; None scales
            nothing.
        average: `exponential_average(...)` or `equal_average(...)` of the parameters, which is
            then what is validated, tracked as the best, and returned; None keeps none.
        eval_params: A function of the optimizer's state and the parameters, which returns those
            that are to be validated, tracked and returned instead, of the same form; None is the
            parameters themselves, or where an optimizer of Optax is evaluated. Beside
            clipping and accumulation the state is wrapped: find a field of it by its name, as in
            `lambda opt_state, params: optax.tree.get(opt_state, "slow")`.
        log_every_n_steps: Train steps from one sample of `log_outputs` to the next, at least 1:
            steps n - 1, 2 n - 1 and so on, counted from 0. The samples are kept in the carry, so
            they cost no transfer a step, and none is lost or doubled by a resume. None samples
            nothing.
        log_outputs: The scalar outputs of a train step that are sampled: "loss", those of the
            loss function, "learning_rate", "grad_norm" (before clipping), "update_norm",
            "param_norm", "update_ratio" (the update's norm over the parameters'); None is the
            loss and the gradient's norm. The norms may be averaged over an epoch as well:
            `train_metrics={"norm": ody.Mean("grad_norm")}`.

    Raises:
        ValueError: If an option is out of its range, or `log_outputs` comes without
            `log_every_n_steps`.
        TypeError: If `loss_scale`, `average` or `eval_params` is of another kind.

    Example:
        >>> import odyssey_jax as ody
        >>> ody.StepOptions(clip_norm=1.0, accumulate_steps=4).sampling(capacity=8) is None
        True
    """

    clip_norm: float | None = None
    accumulate_steps: int = 1
    loss_scale: LossScale | None = None
    average: Averaging | None = None
    eval_params: Callable[[PyTree, PyTree], PyTree] | None = None
    log_every_n_steps: int | None = None
    log_outputs: Sequence[str] | None = None

    def __post_init__(self) -> None:
        norm = self.clip_norm
        real = isinstance(norm, Real) and not isinstance(norm, bool)
        if norm is not None and not (real and norm > 0):
            raise ValueError(f"clip_norm must be a number greater than 0 or None, got {norm!r}.")
        accumulate = check_count("accumulate_steps", self.accumulate_steps, 1)
        object.__setattr__(self, "accumulate_steps", accumulate)
        if self.loss_scale is not None:
            check_kind("loss_scale", self.loss_scale, LossScale, "loss_scale()")
        if self.average is not None:
            made_by = "exponential_average or equal_average"
            check_kind("average", self.average, Averaging, made_by)
        if self.eval_params is not None:
            check_function("eval_params", self.eval_params)
            if self.average is not None:
                raise ValueError(
                    "average= and eval_params= both say at which parameters the model is "
                    "validated and returned: leave one of them out."
                )
        every, outputs = self.log_every_n_steps, self.log_outputs
        if every is None:
            if outputs is not None:
                raise ValueError(
                    f"log_outputs={outputs!r} are sampled every n-th train step: pass "
                    "log_every_n_steps= as well."
                )
            return
        every = check_count("log_every_n_steps", every, 1, " or None")
        object.__setattr__(self, "log_every_n_steps", every)
        outputs = ("loss", "grad_norm") if outputs is None else outputs
        several = isinstance(outputs, Sequence) and not isinstance(outputs, str)
        if not several or not outputs or len(set(outputs)) < len(outputs):
            raise ValueError(f"log_outputs must be different names, at least one, got {outputs!r}.")
        check_columns("log_outputs", outputs)
        object.__setattr__(self, "log_outputs", tuple(outputs))

    @property
    def averaging(self) -> Averaging | EvalParams | None:
        """What makes the parameters that are evaluated; None where they are those trained."""
        return self.average if self.eval_params is None else EvalParams(self.eval_params)

    def sampling(self, capacity: int) -> Sampling | None:
        """Return what of the train steps is kept, with room for so many rows; None for nothing."""
        if self.log_every_n_steps is None:
            return None
        return Sampling(self.log_every_n_steps, tuple(self.log_outputs or ()), capacity)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Values of single train steps, every n-th, kept in the carry.

    Example:
        >>> import jax.numpy as jnp
        >>> kept = Sampling(every=2, outputs=("loss",), capacity=3)
        >>> samples = kept.empty()
        >>> for step in range(5):
        ...     samples = kept.put(samples, jnp.int32(step), {"loss": jnp.float32(step)})
        >>> samples["loss"].tolist()  # the third is not complete
        [1.0, 3.0, 4.0]
    """

    every: int
    outputs: tuple[str, ...]
    capacity: int

    def empty(self) -> Samples:
        """Make room: name to float32 [capacity], or float64 where JAX's x64 is enabled."""
        return {name: jnp.zeros(self.capacity, float) for name in self.outputs}

    def put(self, samples: Samples, step: jax.Array, outputs: Mapping[str, jax.Array]) -> Samples:
        """Take the samples past a train step, whose index is `step`.

        Each step writes to the row of its window, and the last one of it stays: so no step has
        to ask whether it is sampled.
        """
        row = jnp.minimum(step // self.every, self.capacity - 1)
        return {
            name: lax.dynamic_update_index_in_dim(column, _scalar(name, outputs), row, axis=0)
            for name, column in samples.items()
        }


def _scalar(name: str, outputs: Mapping[str, jax.Array]) -> jax.Array:
    scalars = {k: v for k, v in outputs.items() if jnp.ndim(v) == 0}
    if name not in scalars:
        raise ValueError(
            f"{name!r} can't be sampled; the scalar outputs of a train step are: "
            f"{', '.join(sorted(scalars))}."
        )
    return jnp.asarray(scalars[name], float)
