"""Draw the pictures of the documents: `python docs/_build/pictures.py`, or `make pictures`.

Each is drawn by the library, in a program that the documents print.
"""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import notebooks

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs/pictures"
PROGRAMS = ROOT / "docs/programs"

# What a program of the tutorials draws.
DRAWN = {"tutorials/first_run.py": "history.svg", "tutorials/schedules.py": "schedules.svg"}


def main() -> None:
    """Run the programs, and take their pictures."""
    sys.path.insert(0, str(ROOT))
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "odyssey_jax"  # the same file for the same picture
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["SOURCE_DATE_EPOCH"] = "0"
        names = {"__name__": "readme"}
        exec(first_program((ROOT / "README.md").read_text()), names)
        figure = names["ody"].plot_history(names["result"])
        figure.savefig(PICTURES / "circle.png", dpi=140, metadata={"Software": None})
        for program, picture in DRAWN.items():
            runpy.run_path(str(PROGRAMS / program))
            shutil.copy(picture, PICTURES / picture)
    notebooks.draw()


def first_program(document: str) -> str:
    """Return the first program of a document."""
    found = re.search(r"```python\n(.*?)```", document, flags=re.DOTALL)
    assert found is not None
    return found[1]


if __name__ == "__main__":
    main()
