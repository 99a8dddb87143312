"""The command line: `odyssey-jax train`, `schedule`, `runs` and `checkpoints`."""

from odyssey_jax.cli._main import main as main
