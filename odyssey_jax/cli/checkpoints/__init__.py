"""`odyssey-jax checkpoints`: what a directory of checkpoints holds, through a `Reader` alone."""

from odyssey_jax.cli.checkpoints._command import add_parser as add_parser
