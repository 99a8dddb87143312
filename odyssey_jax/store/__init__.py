"""Checkpoints: saved in the background through Orbax, restored strictly, kept by a rule.

What the files hold, and what is promised of them, is in FORMAT.md beside this.
"""

from odyssey_jax.store._errors import CheckpointCorruptError as CheckpointCorruptError
from odyssey_jax.store._errors import CheckpointError as CheckpointError
from odyssey_jax.store._errors import CheckpointInUseError as CheckpointInUseError
from odyssey_jax.store._errors import CheckpointMismatchError as CheckpointMismatchError
from odyssey_jax.store._errors import CheckpointNotFoundError as CheckpointNotFoundError
from odyssey_jax.store._errors import CheckpointSkippedWarning as CheckpointSkippedWarning
from odyssey_jax.store._errors import CheckpointVersionError as CheckpointVersionError
from odyssey_jax.store._errors import CheckpointWriteError as CheckpointWriteError
from odyssey_jax.store._errors import CheckpointWriteWarning as CheckpointWriteWarning
from odyssey_jax.store._export import export as export
from odyssey_jax.store._files import local_directory as local_directory
from odyssey_jax.store._foreign import Foreign as Foreign
from odyssey_jax.store._foreign import find_foreign as find_foreign
from odyssey_jax.store._format import FORMAT_VERSION as FORMAT_VERSION
from odyssey_jax.store._huggingface import from_huggingface as from_huggingface
from odyssey_jax.store._huggingface import stack_layers as stack_layers
from odyssey_jax.store._huggingface import unstack_layers as unstack_layers
from odyssey_jax.store._leaves import SavedLeaf as SavedLeaf
from odyssey_jax.store._match import Report as Report
from odyssey_jax.store._match import Transfer as Transfer
from odyssey_jax.store._match import by_name as by_name
from odyssey_jax.store._objects import BucketPath as BucketPath
from odyssey_jax.store._objects import as_directory as as_directory
from odyssey_jax.store._reader import Reader as Reader
from odyssey_jax.store._reader import Restored as Restored
from odyssey_jax.store._retain import retain as retain
from odyssey_jax.store._store import Store as Store
