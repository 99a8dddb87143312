"""The notebooks as pages: what they say and run, and the pictures that they draw.

They are stored without outputs. `make pictures` runs them and keeps the pictures, by the place of
the cell that draws them.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
PICTURES = ROOT / "docs/pictures/notebooks"
# The badge is loaded from elsewhere, as nothing of the site is: its words are the link.
BADGE = re.compile(r"\[!\[([^]]*)\]\(http[^)]*\)\]")
# What begins each of them: the cell says it to Colab, and a page has it above already.
INSTALL = re.compile(r"REPOSITORY = .*?\n    import odyssey_jax as ody\n\n", flags=re.DOTALL)


def pages() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each page."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        yield f"notebooks/{path.stem}.md", page(path)


def page(path: Path) -> str:
    """Return a notebook as Markdown."""
    parts = ["---\nhide: [toc]\nsearch:\n  boost: 1.5\n---"]
    for index, cell in enumerate(cells(path)):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(BADGE.sub(r"[\1]", text))
            continue
        parts.append(f"```python\n{INSTALL.sub('import odyssey_jax as ody' + chr(10), text)}\n```")
        if (PICTURES / picture(path, index)).exists():
            parts.append(
                f"![What the cell above draws](../pictures/notebooks/{picture(path, index)})"
            )
    return "\n\n".join(parts) + "\n"


def cells(path: Path) -> list[dict[str, Any]]:
    """Return the cells of a notebook."""
    return json.loads(path.read_text())["cells"]


def picture(path: Path, index: int) -> str:
    """Return the name of the picture that a cell draws."""
    return f"{path.stem}_{index}.png"


def draw() -> None:
    """Run the notebooks, and keep what they draw."""
    import nbformat
    from nbclient import NotebookClient
    from PIL import Image

    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.glob("*.png"):
        old.unlink()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, resources={"metadata": {"path": folder}}).execute(env=own)
        for index, cell in enumerate(notebook.cells):
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    png = io.BytesIO(base64.b64decode(output["data"]["image/png"]))
                    few = Image.open(png).convert("RGB").quantize(64)  # a third of the bytes
                    few.save(PICTURES / picture(path, index), optimize=True)
