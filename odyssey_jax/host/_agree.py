"""What several processes must decide alike, since all of them call the program together."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


def greatest(*values: int) -> tuple[int, ...]:
    """The greatest of each value over all processes; each of them must call this.

    Args:
        *values: integers within int32.

    Returns:
        As many integers, the same on every process; on one process, the values.

    Example:
        >>> greatest(3, False)
        (3, 0)
    """
    if jax.process_count() == 1:
        return tuple(int(value) for value in values)
    gathered = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return tuple(int(value) for value in np.max(gathered, axis=0))
