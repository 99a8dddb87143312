"""How a run is cut: passes over the data, epochs, and the blocks between two looks at the clock."""

from __future__ import annotations

import math
from typing import NamedTuple

from odyssey_jax.data import ArrayDataset

# On a GPU a loop of unknown length costs a synchronisation an iteration, so steps run in blocks
# of a fixed number. Few enough of them, so that the host is never long without the carry.
_MOST_STEPS = 10


class Blocks(NamedTuple):
    """The lengths that a run is cut into, in train steps.

    Args:
        epoch: steps to an epoch.
        data_pass: steps to a pass over the data.
        full: those of a pass that have a whole batch; any other is the last.
        block: steps to a block. A run can be interrupted between any two blocks. Divides the
            epoch and the whole batches of a pass, so that no block reaches across their ends.
    """

    epoch: int
    data_pass: int
    full: int
    block: int


def plan_blocks(data: ArrayDataset, steps_per_epoch: int | None = None) -> Blocks:
    """Cuts a run over this data.

    Args:
        data: the training data.
        steps_per_epoch: steps to an epoch; None is one pass.

    Returns:
        The lengths.

    Raises:
        ValueError: `steps_per_epoch` is less than 1.
    """
    epoch = data.steps_per_pass if steps_per_epoch is None else steps_per_epoch
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
        raise ValueError(f"steps_per_epoch must be an integer of at least 1, got {epoch!r}.")
    full = data.full_batches
    if not data.remainder:
        block = _largest_divisor(math.gcd(full, epoch))
    elif epoch == data.steps_per_pass:
        block = _largest_divisor(full)
    else:  # the smaller batch falls anywhere within an epoch
        block = 1
    return Blocks(epoch, data.steps_per_pass, full, block)


def _largest_divisor(n: int) -> int:
    return max(d for d in range(1, _MOST_STEPS + 1) if n % d == 0)
