"""`llms.txt`: what there is to read, for programs that read: https://llmstxt.org."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SECTIONS = {"": "The project", "tutorials": "Tutorials", "how-to": "How-to", "migration": "Migration",
            "notebooks": "Notebooks", "reference": "Reference"}  # fmt: skip


def text(config: Any, pages: list[Any]) -> str:
    """Return the list: a line for each page, with its first sentence, by section."""
    by_section: dict[str, list[str]] = {}
    for page in pages:
        section = SECTIONS[page.file.src_uri.rpartition("/")[0]]
        line = f"- [{page.title}]({page.url or 'index.html'})"
        sentence = first_sentence(page.content or "")
        by_section.setdefault(section, []).append(f"{line}: {sentence}" if sentence else line)
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    lines += ["Every public name is an attribute of `odyssey_jax`, imported as `ody`.", ""]
    for section in SECTIONS.values():
        lines += [f"## {section}", "", *by_section.get(section, []), ""]
    return "\n".join(lines)


def first_sentence(content: str) -> str:
    """Return the first sentence of a page's first paragraph."""
    found = re.search(r"<p>(.*?)</p>", content, flags=re.DOTALL)
    words = re.sub(r"<[^>]*>", "", found[1] if found else "").split()
    return re.split(r"(?<=\.)\s", " ".join(words))[0].rstrip(":")


def write(config: Any, pages: list[Any]) -> None:
    """Write it beside the pages."""
    Path(config.site_dir, "llms.txt").write_text(text(config, pages))
