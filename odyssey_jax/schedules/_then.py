"""Two schedules in sequence: the join that is written most often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._base import Schedule, recipe
from ._join import Join, join


@recipe
def then(
    first: Schedule | Callable[[Any], Any], second: Schedule | Callable[[Any], Any], after: Any
) -> Join:
    r"""Follow one schedule for a number of steps, then another from its own step 0.

    $$f(t) = \begin{cases} f_1(t) & t < b \\ f_2(t - b) & t \ge b \end{cases}$$

    So any curve is the warm-up, or the decay, of any other. It is `join([first, second],
    [after])`; `schedule.then(other, after)` is the same.

    Args:
        first: The schedule up to `after`: a schedule, or a plain function of the step.
        second: The schedule from there on.
        after: The steps $b$ that the first has, from the start of it; scalar, in
            [0, 2**31 - 1]. If 0, the first is skipped.

    Returns:
        A `join` of the two: step to float32.

    Raises:
        ValueError: If one is not a schedule, or `after` is outside its range.

    Source:
        `optax.join_schedules`, `torch.optim.lr_scheduler.SequentialLR`.

    Example:
        >>> from odyssey_jax.schedules import cosine_decay, linear_warmup, then
        >>> schedule = then(linear_warmup(0.1, 10), cosine_decay(0.1, 90), after=10)
        >>> [round(float(schedule(t)), 4) for t in (5, 10, 55, 100)]
        [0.05, 0.1, 0.05, 0.0]
    """
    return join([first, second], [after])
