"""The runs under a directory, read from what `fit` leaves there."""

from odyssey_jax.runs._checkpoints import open_checkpoints as open_checkpoints
from odyssey_jax.runs._runs import Run as Run
from odyssey_jax.runs._runs import find_runs as find_runs
from odyssey_jax.runs._runs import known_mode as known_mode
from odyssey_jax.runs._runs import name_below as name_below
