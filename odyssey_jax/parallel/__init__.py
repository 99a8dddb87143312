"""What several processes agree on, and where arrays lie on a mesh."""

from odyssey_jax.parallel._agree import Meeting as Meeting
from odyssey_jax.parallel._agree import ProcessFailedError as ProcessFailedError
from odyssey_jax.parallel._agree import decide as decide
from odyssey_jax.parallel._agree import from_first as from_first
from odyssey_jax.parallel._agree import greatest as greatest
from odyssey_jax.parallel._agree import is_first as is_first
from odyssey_jax.parallel._agree import together as together
from odyssey_jax.parallel._alike import check_alike as check_alike
from odyssey_jax.parallel._on_mesh import as_given as as_given
from odyssey_jax.parallel._on_mesh import data_parallel as data_parallel
from odyssey_jax.parallel._on_mesh import fully_sharded as fully_sharded
from odyssey_jax.parallel._on_mesh import one_device as one_device
from odyssey_jax.parallel._on_mesh import placement_for as placement_for
from odyssey_jax.parallel._on_mesh import placement_of as placement_of
from odyssey_jax.parallel._on_mesh import sharded as sharded
from odyssey_jax.parallel._placement import OneDevice as OneDevice
from odyssey_jax.parallel._placement import Placement as Placement
from odyssey_jax.parallel._placement import check_placement as check_placement
from odyssey_jax.parallel._placement import check_whole as check_whole
from odyssey_jax.parallel._rules import axis_names as axis_names
from odyssey_jax.parallel._rules import named_leaves as named_leaves
from odyssey_jax.parallel._start import initialize as initialize
