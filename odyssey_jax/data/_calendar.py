"""The calendar of a run: which step ends which block, epoch and pass. Integers only."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

from odyssey_jax._checks import check_count
from odyssey_jax.data._source import Source

# On a GPU a loop of unknown length costs a synchronisation an iteration, so steps run in blocks
# of a static number: a small one, since a run can be interrupted between blocks only.
MAX_BLOCK = 10


class Calendar(NamedTuple):
    """How a run is cut, in train steps, and how many examples it has seen at each.

    Attributes:
        epoch: Steps in an epoch.
        data_pass: Steps in a pass over the data.
        full: Steps of a pass that have a whole batch; any other is the last.
        block: Steps in a block. A run can be interrupted between any two blocks. Divides the
            epoch and the whole batches of a pass, so that no block reaches across their ends.
        batch_size: Examples in a whole batch.
        remainder: Examples in the last, smaller batch of a pass; 0 where there is none.
        last: The step that ends the run, where it ends an epoch before its time; else None.

    Example:
        >>> import numpy as np, odyssey_jax as ody
        >>> data = ody.ArrayDataset(np.zeros(70), batch_size=20)
        >>> calendar = Calendar.of(data)
        >>> calendar.epoch, calendar.block, calendar.examples(4), calendar.steps_for(71)
        (4, 3, 70, 5)
    """

    epoch: int
    data_pass: int
    full: int
    block: int
    batch_size: int = 1
    remainder: int = 0
    last: int | None = None

    @classmethod
    def of(
        cls, source: Source, steps_per_epoch: int | None = None, last: int | None = None
    ) -> Self:
        """Cut a run over a source of batches.

        Args:
            source: The training data.
            steps_per_epoch: Steps in an epoch; None is one pass.
            last: The step that ends the run; its last epoch may be a shorter one. None is the end
                of any epoch.

        Returns:
            The calendar.

        Raises:
            ValueError: If `steps_per_epoch` is not an integer of at least 1, or is None where the
                length of a pass is not known.
        """
        known = source.steps_per_pass
        if steps_per_epoch is None and known is None:
            raise ValueError(
                f"steps_per_epoch must be given: how many batches {source!r} has is not known."
            )
        epoch = known if steps_per_epoch is None else steps_per_epoch
        epoch = check_count("steps_per_epoch", epoch, 1)
        last = None if last is None or last % epoch == 0 else last
        if known is None:  # an epoch counts as a pass
            block = _largest_divisor(math.gcd(epoch, last or 0))
            return cls(epoch, epoch, epoch, block, source.batch_size, last=last)
        full = source.full_batches
        if not source.remainder:
            block = _largest_divisor(math.gcd(full, epoch, last or 0))
        elif epoch == source.steps_per_pass:
            block = _largest_divisor(math.gcd(full, (last or 0) % known))
        else:  # the smaller batch falls anywhere within an epoch
            block = 1
        return cls(epoch, known, full, block, source.batch_size, source.remainder, last)

    @property
    def examples_per_pass(self) -> int:
        """Examples in a pass."""
        return self.full * self.batch_size + self.remainder

    def examples(self, step: int) -> int:
        """Return the examples seen after so many steps."""
        passes, position = divmod(step, self.data_pass)
        return passes * self.examples_per_pass + position * self.batch_size

    def steps_for(self, examples: int) -> int:
        """Return the first step at which so many examples are seen."""
        passes, rest = divmod(examples, self.examples_per_pass)
        return passes * self.data_pass + -(-rest // self.batch_size)

    def epochs(self, step: int) -> int:
        """Return the epochs that are over after so many steps."""
        return step // self.epoch + (step == self.last)

    def ends_epoch(self, step: int) -> bool:
        """Return whether an epoch ends with the last of so many steps."""
        ends = step % self.epoch == 0
        return ends if self.last is None else ends | (step == self.last)

    def epoch_end(self, step: int) -> int:
        """Return the step that ends the epoch which runs after so many steps."""
        end = step - step % self.epoch + self.epoch
        return end if self.last is None or not step < self.last < end else self.last


def _largest_divisor(n: int) -> int:
    return max(d for d in range(1, MAX_BLOCK + 1) if n % d == 0)
