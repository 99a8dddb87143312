"""`odyssey-jax runs`: the runs under a directory, in a table and in one picture."""

from __future__ import annotations

import argparse
from typing import Any

from odyssey_jax._text import printable
from odyssey_jax.cli._output import add_command, duration, print_json, print_table, when
from odyssey_jax.plots import plot_runs
from odyssey_jax.runs import Run, find_runs, known_mode, name_below
from odyssey_jax.store import as_directory

_EXAMPLES = """examples:
  odyssey-jax runs runs
  odyssey-jax runs runs --metric valid/accuracy --mode max --plot compared.png
"""

_COLUMNS = ("run", "epochs#", "best", "ended", "time#", "saved", "learning rate")


def add_parser(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, runs, _EXAMPLES)
    command.add_argument(
        "directory", metavar="DIR", help="the directory of a run, or one with runs below it"
    )
    command.add_argument(
        "--metric",
        metavar="NAME",
        help="the metric that says which epoch is best (default: the one the checkpoints were "
        "kept by, or the validation loss)",
    )
    command.add_argument("--mode", choices=("min", "max"), help="whether less or more is better")
    command.add_argument("--plot", metavar="FILE", help="draw them into a .png, .svg or .pdf")
    command.add_argument("--json", action="store_true", help="print JSON")


def runs(parsed: argparse.Namespace) -> None:
    """List the runs under a directory, and compare them.

    Printed are how far each run got, its best epoch, why it ended, and its learning rate; the
    best run first. A run is what has checkpoints or a metrics.jsonl. Nothing is changed.
    """
    root = as_directory(parsed.directory)
    found = {name_below(root, run): run for run in find_runs(root)}
    if not found:
        raise ValueError(
            f"there is no run in {str(root)!r}: nothing there or below has "
            "checkpoints or a metrics.jsonl."
        )
    if parsed.metric is not None and parsed.mode is None:
        parsed.mode = known_mode(found.values(), parsed.metric)
    found = dict(sorted(found.items(), key=lambda item: _rank(*item, parsed)))
    if parsed.json:
        print_json([_record(name, run, parsed) for name, run in found.items()])
    else:
        print_table(_COLUMNS, [_cells(name, run, parsed) for name, run in found.items()])
        for trouble in (trouble for run in found.values() for trouble in run.troubles):
            print(f"? {printable(trouble)}")
    if parsed.plot is not None:
        plot_runs(found, parsed.metric, mode=parsed.mode, path=parsed.plot)
        if not parsed.json:
            print(f"in {parsed.plot}: the picture")


def _rank(name: str, run: Run, parsed: argparse.Namespace) -> tuple[Any, ...]:
    """Return the key that sorts runs: by metric, and the best of each first."""
    best = run.best(parsed.metric, parsed.mode)
    if best is None:
        return True, "", 0.0, name
    most = (parsed.mode or known_mode([run], best.metric)) == "max"
    return False, best.metric, -best.value if most else best.value, name


def _cells(name: str, run: Run, parsed: argparse.Namespace) -> tuple[str, ...]:
    best = run.best(parsed.metric, parsed.mode)
    return (
        name,
        f"{run.epochs}" if run.last_epochs is None else f"{run.epochs} of {run.last_epochs}",
        "" if best is None else f"{best.metric} {best.value:.4g} at epoch {best.epoch}",
        run.reason or "",
        "" if run.seconds is None else duration(run.seconds),
        "" if run.timestamp is None else when(run.timestamp),
        run.schedule or "",
    )


def _record(name: str, run: Run, parsed: argparse.Namespace) -> dict[str, Any]:
    best = run.best(parsed.metric, parsed.mode)
    return {
        "run": name,
        "directory": run.directory,
        "epochs": run.epochs,
        "last_epochs": run.last_epochs,
        "best": None if best is None else best._asdict(),
        "stop_reason": run.metadata.get("stop_reason"),
        "reason": run.reason,
        "seconds": run.seconds,
        "timestamp": run.timestamp,
        "schedule": run.metadata.get("schedule"),
        "config": run.metadata.get("config"),
        "troubles": run.troubles,
    }
