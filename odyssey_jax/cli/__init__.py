"""The command line: `odyssey-jax train` and `odyssey-jax schedule`."""

from odyssey_jax.cli._main import main as main
