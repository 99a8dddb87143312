"""`python -m odyssey_jax.cli`."""

import sys

from odyssey_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
