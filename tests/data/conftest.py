"""torch has no wheel for other Pythons where `make core` runs: see `dev` in pyproject.toml."""

import sys

collect_ignore = ["test_torch.py"] if sys.version_info >= (3, 12) else []
