"""Programs of at most 120 lines, each `python -m examples.NAME [DIRECTORY]`.

Each has a function `run(directory=None, **options)`, which returns the result of its `fit`. With
a directory, a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import odyssey_jax as ody


def main(run: Callable[..., Any], name: str) -> None:
    """Run an example in the directory of the command line, or in `runs/NAME`."""
    run(sys.argv[1] if len(sys.argv) > 1 else f"runs/{name}")


def digits(batch_size: int, **how: Any) -> tuple[ody.ArrayDataset, ody.ArrayDataset]:
    """Return scikit-learn's 8x8 digits, 1,500 to train on, shuffled, and 297 to validate."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images = (found.images[..., None] / 16).astype(np.float32)
    data = {"image": images, "label": found.target.astype(np.int32)}
    train = {name: x[:1_500] for name, x in data.items()}
    valid = {name: x[1_500:] for name, x in data.items()}
    shuffled = ody.ArrayDataset(train, batch_size, shuffle=True, drop_remainder=True, **how)
    return shuffled, ody.ArrayDataset(valid, 99)
