"""The command line: `odyssey-jax train`, `schedule` and `runs`."""

from odyssey_jax.cli._main import main as main
