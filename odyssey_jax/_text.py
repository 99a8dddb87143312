"""Text for people: what is safe on a terminal, and how a missing package is named."""

from __future__ import annotations

import contextlib
import sys


def printable(text: str) -> str:
    r"""Return text that a terminal takes as text: control characters are escaped.

    Names, reasons and configurations may come from a stranger's file, and an escape sequence in
    them would be carried out by the terminal.

    Example:
        >>> print(printable("a\x1b[2Jb\n\u202ec"))
        a\x1b[2Jb\n\u202ec
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def missing(package: str, extra: str) -> ImportError:
    """Return the error for a package that is not installed, which names the extra to install.

    Example:
        >>> print(missing("matplotlib", "plot"))
        matplotlib is not installed: pip install 'odyssey-jax[plot]'
    """
    # Quoted: zsh takes the brackets for a pattern.
    return ImportError(f"{package} is not installed: pip install 'odyssey-jax[{extra}]'")


def say(line: str) -> None:
    """Print a line on the standard error, which may be a pipe that is closed."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
