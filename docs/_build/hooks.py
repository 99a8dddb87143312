"""What the site is given when it is built: the reference, the root's documents, mathematics, links.

Nothing of it is fetched: mathematics becomes MathML, which browsers draw by themselves.
"""

from __future__ import annotations

import html
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PATHS = [str(ROOT), str(Path(__file__).parent)]
sys.path[:0] = PATHS

import errors
import llms
import notebooks
import reference

README = ROOT / "README.md"
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]

PAGES: list[Any] = []

# The documents at the root, and where they are on the site.
DOCUMENTS = {
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "odyssey_jax/store/FORMAT.md": "format.md",
}


def on_config(config: Any) -> Any:
    """Add to the navigation what is found: how-to and migration pages, and the reference."""
    sys.path[:0] = PATHS  # MkDocs takes back what a hook adds while it is loaded
    docs = Path(config.docs_dir)
    for entry in config.nav:
        (title, pages), = entry.items()
        if title in ("How-to", "Migration"):
            folder = pages[0].split("/")[0]
            listed = re.findall(r"\]\((\w+\.md)\)", (docs / folder / "index.md").read_text())
            found = {path.name for path in (docs / folder).glob("*.md")} - {"index.md"}
            pages += [f"{folder}/{name}" for name in dict.fromkeys([*listed, *sorted(found)])]
        elif title == "Notebooks":
            pages += [path for path, _ in notebooks.pages()]
        elif title == "Troubleshooting":
            pages.append({"Every error": "errors.md"})
        elif title == "Reference":
            pages.append("reference/index.md")
            pages += [{room: f"reference/{room}.md"} for room in reference.rooms()]
        elif title == "Project":
            names = {"architecture.md": "Architecture", "contributing.md": "Contributing",
                     "changelog.md": "Changelog", "format.md": "Checkpoint format"}
            pages += [{names[page]: page} for page in DOCUMENTS.values()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are generated."""
    pages = dict(reference.pages()) | dict(notebooks.pages())
    pages["errors.md"] = errors.page()
    for source, page in DOCUMENTS.items():
        pages[page] = _on_site((ROOT / source).read_text(), Path(source).parent.as_posix())
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put in the sections of the README that a page asks for."""
    del page, config, files
    put = lambda found: re.sub("<img.*>", "", _on_site(_section(README.read_text(), found[1])))
    return re.sub(r"<!-- readme: (.*) -->", put, markdown)


def _section(document: str, title: str) -> str:
    """Return what is under a heading."""
    found = re.search(rf"^##? {re.escape(title)}\n(.*?)(?=^##? |\Z)", document, flags=re.M | re.S)
    if found is None:
        raise ValueError(f"README.md has no section {title!r}.")
    return found[1].strip()


def _on_site(text: str, folder: str = "") -> str:
    """Return a document of the repository with its links as they are on the site."""

    def linked(found: re.Match[str]) -> str:
        path, anchor = found[1], found[2] or ""
        if path.startswith("docs/"):
            return f"]({path.removeprefix('docs/')}{anchor})"
        if path in DOCUMENTS:
            return f"]({DOCUMENTS[path]}{anchor})"
        where = (ROOT / folder / path).resolve().relative_to(ROOT)
        return f"]({SOURCE}/blob/main/{where}{anchor})"

    return re.sub(r"\]\(([^):#\s]+)(#[^)]*)?\)", linked, text)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Draw mathematics, and link every public name that is written as code."""
    del config, files
    content = re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', _mathml, content,
                     flags=re.S)
    inside = page.file.src_uri.startswith("reference/")
    return re.sub(r"<code>([\w.]+)(\(\))?</code>", lambda found: _linked(found, inside), content)


def _mathml(found: re.Match[str]) -> str:
    kind, latex = found.groups()
    return convert(html.unescape(latex).strip(), display="block" if kind == "div" else "inline")


def _linked(found: re.Match[str], bare: bool) -> str:
    name = found[1]
    target = reference.target(name, bare)
    if target is None:
        return found[0]
    return f'<autoref identifier="{target}" optional>{found[0]}</autoref>'


def on_nav(nav: Any, config: Any, files: Any) -> Any:
    """Take the pages, in the order of the navigation, for `llms.txt`."""
    del config, files
    PAGES[:] = nav.pages
    return nav


def on_post_build(config: Any) -> None:
    """Write `llms.txt`."""
    llms.write(config, PAGES)
