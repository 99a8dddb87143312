"""What the commands share: their help, tables, JSON, and amounts as people write them."""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import math
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from odyssey_jax._text import printable

# Columns of what is not a terminal: a file or a pipe takes a line of any length.
_ENDLESS = 100_000


def add_command(
    commands: Any, run: Callable[[argparse.Namespace], int | None], examples: str = ""
) -> argparse.ArgumentParser:
    """Add a command, or an action of one; its name and its help are those of a function.

    Args:
        commands: What `add_subparsers` returned.
        run: What the command does; the exit status is what this returns, None is 0.
        examples: Lines below the help, printed as they are.

    Returns:
        The command's parser, to add its arguments to.
    """
    text = " ".join((run.__doc__ or run.__name__).split())
    first = text.partition(". ")[0].removesuffix(".")
    # The formatter that leaves examples as they are leaves the description as it is, too.
    command = commands.add_parser(
        run.__name__,
        help=first[0].lower() + first[1:],
        description=textwrap.fill(text, 79),
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run, parser=command)
    return command


class Parser(argparse.ArgumentParser):
    """A parser that says what a misspelt command or option is nearest to."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with status 2."""
        for word, known in self._unknown(message):
            message += near(word, known)
        super().error(message)

    def _unknown(self, message: str) -> Iterator[tuple[str, Iterable[str]]]:
        """Yield what is not known, and what there is in its place."""
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            yield found[1], re.split(r"[', ]+", found[2])
        elif found := re.match("unrecognized arguments: (.*)", message):
            options = [name for action in self._actions for name in action.option_strings]
            words = (word.partition("=")[0] for word in found[1].split() if word[0] == "-")
            yield from ((word, options) for word in words)


def near(word: str, known: Iterable[str]) -> str:
    """Return a question for the known word that is nearest to one that is not.

    Example:
        >>> near("trian", ["train", "run"]), near("x", ["train", "run"])
        ("; did you mean 'train'?", '')
    """
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, without the columns that are empty in every row.

    No cell is cut. The columns for which the terminal is too narrow are written below each row.

    Args:
        columns: Their names; one that ends in "#" is of numbers, and aligned to the right.
        rows: A cell for each column.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    used = [i for i in range(len(columns)) if any(row[i] for row in cells)]
    names = [columns[i].rstrip("#") for i in used]
    cells = [[row[i] for i in used] for row in cells]
    widths = [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]
    out = console()
    room = [sum(widths[:n]) + 2 * (n - 1) <= out.width for n in range(1, len(widths) + 1)]
    fit = max(sum(itertools.takewhile(bool, room)), 1)

    def line(row: Sequence[str]) -> str:
        padded = zip(row[:fit], widths, used, strict=False)
        parts = [_padded(cell, width, columns[i].endswith("#")) for cell, width, i in padded]
        return "  ".join(parts).rstrip()

    # As `Text`, in which "[0]" is no markup.
    out.print(Text(line(names), style="bold"), soft_wrap=True)
    for row in cells:
        out.print(Text(line(row)), soft_wrap=True)
        below = [f"{n}: {x}" if n else x for n, x in zip(names[fit:], row[fit:], strict=True) if x]
        for text in below:
            wrapped = textwrap.wrap(
                text, max(out.width - 4, 1), break_long_words=False, break_on_hyphens=False
            )
            for part in wrapped:
                out.print(Text(f"    {part}"), soft_wrap=True)


def _padded(cell: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space


def console() -> Console:
    """Return the standard output: a terminal with its width, or lines of any length."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=_ENDLESS)


def print_json(value: Any) -> None:
    """Print strict JSON: NaN is null, infinities are the strings "Infinity" and "-Infinity"."""
    print(json.dumps(plain(value), indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """Return what strict JSON has room for; any other value as its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    known = value is None or isinstance(value, bool | int | float | str)
    return value if known else str(value)


def size(count: float) -> str:
    """Return bytes as people write them.

    Example:
        >>> size(999), size(1_500), size(120_000_000)
        ('999 B', '1.5 kB', '120 MB')
    """
    unit = 0
    while count >= 999.5 and unit < 5:
        count, unit = count / 1_000, unit + 1
    digits = f"{count:.3g}" if unit else f"{count:.0f}"
    return f"{digits} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[unit]}"


def duration(seconds: float) -> str:
    """Return a length of time as people write it.

    Example:
        >>> duration(0.25), duration(75), duration(7_260), duration(200_000)
        ('0.25 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for most, unit, small, part in ((3600, 60, 1, "min s"), (86400, 3600, 60, "h min")):
        if whole < most:
            names = part.split()
            return f"{whole // unit} {names[0]} {whole % unit // small} {names[1]}"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def when(timestamp: float, now: float | None = None) -> str:
    """Return a moment in local time, and how long ago it was.

    Args:
        timestamp: Seconds since 1970.
        now: The present in the same; None asks the clock.

    Returns:
        Such as "2026-01-02 03:04:05, 2 h 5 min ago".

    Example:
        >>> when(1_000.0, now=1_075.4).split(", ")[1], when(1_000.0, now=0.0).split(", ")[1]
        ('1 min 15 s ago', 'in the future')
    """
    ago = (time.time() if now is None else now) - timestamp
    try:
        text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(timestamp))
    except (OverflowError, ValueError, OSError):  # no date of a calendar
        return f"{timestamp:g} s after 1970"
    # The clocks of two machines differ by a little.
    return f"{text}, {duration(max(round(ago), 0))} ago" if ago > -60 else f"{text}, in the future"
