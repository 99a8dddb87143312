"""What several processes agree on, and where arrays lie on a mesh."""

from odyssey_jax.parallel._agree import Meeting as Meeting
from odyssey_jax.parallel._agree import ProcessFailedError as ProcessFailedError
from odyssey_jax.parallel._agree import decide as decide
from odyssey_jax.parallel._agree import from_first as from_first
from odyssey_jax.parallel._agree import greatest as greatest
from odyssey_jax.parallel._agree import is_first as is_first
from odyssey_jax.parallel._agree import together as together
from odyssey_jax.parallel._alike import check_alike as check_alike
from odyssey_jax.parallel._placement import OneDevice as OneDevice
from odyssey_jax.parallel._placement import Placement as Placement
from odyssey_jax.parallel._placement import Replicated as Replicated
from odyssey_jax.parallel._placement import check_whole as check_whole
from odyssey_jax.parallel._placement import warn_of_idle_devices as warn_of_idle_devices
