"""What odyssey_jax raises and warns of beside ValueError and TypeError, in one place."""

from odyssey_jax.parallel import ProcessFailedError as ProcessFailedError
from odyssey_jax.store import CheckpointCorruptError as CheckpointCorruptError
from odyssey_jax.store import CheckpointError as CheckpointError
from odyssey_jax.store import CheckpointInUseError as CheckpointInUseError
from odyssey_jax.store import CheckpointMismatchError as CheckpointMismatchError
from odyssey_jax.store import CheckpointNotFoundError as CheckpointNotFoundError
from odyssey_jax.store import CheckpointSkippedWarning as CheckpointSkippedWarning
from odyssey_jax.store import CheckpointVersionError as CheckpointVersionError
from odyssey_jax.store import CheckpointWriteError as CheckpointWriteError
from odyssey_jax.store import CheckpointWriteWarning as CheckpointWriteWarning
