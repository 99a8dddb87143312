"""Every message of an error or a warning of the package, as its source has it."""

from __future__ import annotations

import ast
import dataclasses
import html
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "odyssey_jax"
BLANK = "…"  # what a message quotes

# Words that an anchor is made of; more would make it no clearer.
_WORDS = 8


@dataclasses.dataclass(frozen=True)
class Message:
    """A message, and where it comes from.

    Attributes:
        kind: The name of the exception or of the warning.
        text: Its text, with `BLANK` for what it quotes.
        module: The file, below the package.
        anchor: Its id on the page.
    """

    kind: str
    text: str
    module: str
    anchor: str = ""

    @property
    def room(self) -> str:
        """The room that it is of."""
        return self.module.split("/")[0].removesuffix(".py")


def messages() -> list[Message]:
    """Return all messages, in the order of the files, each text of a room once."""
    found = dict.fromkeys(one for path in sorted(PACKAGE.rglob("*.py")) for one in _of_file(path))
    seen: Counter[str] = Counter()
    named = []
    for one in found:
        words = re.findall(r"[a-z0-9_]+", one.text.lower())[:_WORDS]
        anchor = "-".join(words)
        seen[anchor] += 1
        anchor += f"-{seen[anchor]}" if seen[anchor] > 1 else ""
        named.append(dataclasses.replace(one, anchor=anchor))
    return named


def _of_file(path: Path) -> Iterator[Message]:
    module = path.relative_to(PACKAGE).as_posix()
    tree = ast.parse(path.read_text())
    texts = _assigned(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and (kind := _kind(node)):
            first = node.args[0]
            named = texts.get(first.id, []) if isinstance(first, ast.Name) else [_text(first)]
            for text in named:
                text = " ".join(text.split())
                if len(re.findall("[a-z]", text)) > 7:  # no message that is a variable alone
                    yield Message(kind, text, module)


def _assigned(tree: ast.AST) -> dict[str, list[str]]:
    """Return the texts that variables of a file are given."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(_text(node.value))
    return found


def _kind(call: ast.Call) -> str | None:
    """Return what a call makes, if it is an exception or a warning."""
    name = ast.unparse(call.func).rpartition(".")[2]
    if name == "warn":
        more = [ast.unparse(arg) for arg in [*call.args[1:], *(k.value for k in call.keywords)]]
        return next((kind for kind in more if kind.endswith("Warning")), "UserWarning")
    return name if re.fullmatch(r"[A-Z]\w*(Error|Warning|Interrupt|Exit)", name) else None


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return BLANK


def templates() -> set[str]:
    """Return every text of the package's source, with `BLANK` for what is put into it."""
    kinds = (ast.Constant, ast.JoinedStr, ast.BinOp)
    trees = (ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, kinds))
    return {" ".join(_text(node).split()) for node in nodes} - {BLANK}


def page() -> str:
    """Return the page: a heading for each message, by room."""
    lines = [
        "---\nsearch:\n  boost: 0.4\n---",  # behind the pages that explain
        "# Every error",
        "",
        f"Each message that the package raises or warns with, by room; `{BLANK}` stands for what it",
        "quotes of your program. Search for the words that you see. Those that people meet most are",
        "explained in [troubleshooting](troubleshooting.md).",
    ]
    room = None
    for one in messages():
        if _title(one.room) != room:
            room = _title(one.room)
            lines += ["", f"## {room}", ""]
        text = html.escape(one.text)
        lines += [
            f'<h4 id="{one.anchor}" class="error">{text}<a class="headerlink"'
            f' href="#{one.anchor}">&para;</a></h4>',
            f"<p><code>{one.kind}</code>, from <code>odyssey_jax/{one.module}</code></p>",
            "",
        ]
    return "\n".join(lines)


def _title(room: str) -> str:
    """Return what the page calls a room; what all share is at the top of the package."""
    return "shared by all" if room.startswith("_") else room
