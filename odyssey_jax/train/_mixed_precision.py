"""Mixed precision: compute in half the bits, keep the parameters in all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from odyssey_jax._types import Model, ModelState, PyTree, Task, asks_for
from odyssey_jax.train._user_functions import ByValue, check_form_of_state, with_loss

_DTYPES = ("bfloat16", "float16", "float32")


@dataclasses.dataclass(frozen=True, eq=False)
class _Cast(ByValue):
    """A function of a task in another precision; compared by the function it wraps."""

    inner: Callable[..., Any]
    dtype: str

    @property
    def asks_for(self) -> tuple[str, ...]:
        """What the function that it wraps asks for."""
        return asks_for(self.inner)

    def with_loss(self, loss_fn: Callable[..., Any]) -> _Cast:
        """Return the same function of another loss."""
        return dataclasses.replace(self, inner=with_loss(self.inner, loss_fn))

    def down(self, tree: PyTree) -> PyTree:
        """Cast the real numbers of a tree to the precision that is computed in."""
        return jax.tree.map(lambda x: x.astype(self.dtype) if _is_real(x) else x, tree)

    def down_untrained(self, model_state: PyTree) -> PyTree:
        """Cast the parameters that are not trained as the others are."""
        if not isinstance(model_state, ModelState):
            return model_state
        return model_state._replace(untrained=self.down(model_state.untrained))


class _CastLoss(_Cast):
    def __call__(self, params, model_state, batch, key, **where):
        lowered = self.down_untrained(model_state)
        given = (self.down(params), lowered, self.down(batch), key)
        loss, (new, outputs) = self.inner(*given, **where)
        if jax.tree.structure(new) != jax.tree.structure(model_state):
            check_form_of_state(new, model_state)  # says what is another
        # What was not assigned to keeps all its bits.
        as_it_was = lambda new, low, old: old if new is low else _like(new, old)
        new = jax.tree.map(as_it_was, new, lowered, model_state)
        return loss.astype(jnp.float32), (new, _up(outputs))


class _CastEvaluate(_Cast):
    def __call__(self, params, model_state, batch, key=None, **where):
        given = (self.down(params), self.down_untrained(model_state), self.down(batch))
        if "key" in self.asks_for:
            where["key"] = key
        return _up(self.inner(*given, **where))


def _is_real(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _up(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32) if _is_real(x) else x, tree)


def _like(new: Any, old: Any) -> Any:
    return new.astype(old.dtype) if _is_real(old) else new


def mixed_precision(
    task: Task[Model], compute_dtype: jax.typing.DTypeLike = jnp.bfloat16
) -> Task[Model]:
    """Make the same task computed in another precision, with its parameters kept in float32.

    Parameters and the real numbers of a batch are cast for the model and the loss; gradients
    come back in the parameters' own precision, and the optimizer sees nothing else. What the
    model keeps (batch statistics) stays as it is. The outputs are float32 again, so metrics are
    summed in float32; within the loss function cast the logits first, as in
    `logits.astype(jnp.float32)`, where 8 bits are too few.

    float16 has so small a range that gradients vanish: use `fit(loss_scale=...)` with it.

    Args:
        task: What is trained.
        compute_dtype: "bfloat16", "float16" or "float32", or a dtype of that name.

    Returns:
        A task. Two are equal if their tasks and dtypes are.

    Raises:
        ValueError: If the dtype is none of these.

    Source:
        Micikevicius et al., "Mixed Precision Training" (2018); `jmp.Policy`.

    Example:
        >>> import jax, jax.numpy as jnp, odyssey_jax as ody
        >>> seen = []
        >>> def loss(w, batch):
        ...     seen.append(w.dtype.name)
        ...     return ((w - batch) ** 2).mean()
        >>> task = ody.mixed_precision(ody.pure_task(jnp.zeros(()), loss))
        >>> gradient = jax.grad(lambda w: task.loss(w, None, jnp.ones(4), None)[0])(jnp.zeros(()))
        >>> seen, gradient.dtype.name, float(gradient)
        (['bfloat16'], 'float32', -2.0)
    """
    try:
        dtype = jnp.dtype(compute_dtype).name
    except TypeError:  # no dtype at all
        dtype = None
    if dtype not in _DTYPES:
        names = ", ".join(_DTYPES)
        raise ValueError(f"compute_dtype must be one of {names}, got {compute_dtype!r}.")
    return task._replace(
        loss=_CastLoss(task.loss, dtype), evaluate=_CastEvaluate(task.evaluate, dtype)
    )
