"""`odyssey-jax schedule`: a schedule in words, as a chart, and as a picture."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from odyssey_jax.cli._expression import parse
from odyssey_jax.cli._output import add_command
from odyssey_jax.plots import plot, plot_text
from odyssey_jax.schedules import Schedule, describe, lint

_EXAMPLES = """examples:
  odyssey-jax schedule 'warmup_cosine(0.1, 1000, 10000)'
  odyssey-jax schedule 'warmup_cosine(0.1, epochs(5), fraction(1))' \\
      --steps 28080 --steps-per-epoch 312 --save lr.png
  odyssey-jax schedule 'step_decay(0.1, 3000)' '0.1 * cosine_decay(1.0, 9000)' \\
      --steps 9000
"""

# The option for each argument in Python.
_OPTIONS = {
    "steps_per_epoch": "--steps-per-epoch",
    "tokens_per_step": "--tokens-per-step",
    "total_steps": "--steps",
}


def add_parser(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, schedule, _EXAMPLES)
    command.add_argument("expression", nargs="+", help="one schedule, or several to compare")
    command.add_argument(
        "--steps", type=int, metavar="N", help="steps in the run (default: until the end)"
    )
    command.add_argument("--steps-per-epoch", type=float, metavar="N", help="steps in an epoch")
    command.add_argument("--tokens-per-step", type=float, metavar="N", help="tokens in a step")
    command.add_argument("--log", action="store_true", help="use a logarithmic axis for the values")
    command.add_argument("--width", type=int, metavar="N", help="columns (default: the terminal's)")
    command.add_argument("--save", metavar="FILE", help="draw it into a .png, .svg or .pdf")


def schedule(parsed: argparse.Namespace) -> None:
    """Describe, draw and check a learning-rate schedule.

    What looks like a mistake is pointed out. A schedule is written as in Python, with the names
    of odyssey_jax.
    """
    schedules = {text: _resolved(parse(text), parsed) for text in parsed.expression}
    try:
        _show(schedules, parsed)
    except ValueError as error:
        raise ValueError(_with_options(str(error))) from error


def _show(schedules: dict[str, Schedule], parsed: argparse.Namespace) -> None:
    # Before anything is written: what can't be drawn is an error alone.
    chart = plot_text(
        schedules,
        parsed.steps,
        width=parsed.width,
        log=parsed.log,
        characters="braille" if _shows_braille() else "ascii",
    )
    words = [_words(text, schedule, parsed) for text, schedule in schedules.items()]
    if parsed.save is not None:
        plot(
            schedules,
            parsed.steps,
            log=parsed.log,
            steps_per_epoch=parsed.steps_per_epoch,
            path=parsed.save,
        )
    print(chart, *words, sep="\n\n")
    if parsed.save is not None:
        print(f"\nin {parsed.save}: the picture")


def _resolved(schedule: Schedule, parsed: argparse.Namespace) -> Schedule:
    return schedule.resolve(
        steps_per_epoch=parsed.steps_per_epoch,
        tokens_per_step=parsed.tokens_per_step,
        total_steps=parsed.steps,
    )


def _with_options(message: str) -> str:
    """Rewrite the remedy of an error of Python as options; the quoted value stays as it is."""
    start = re.match("total_steps (?=must be)", message)
    if start:
        return f"{_OPTIONS['total_steps']} {message[start.end() :]}"

    def options(call: re.Match[str]) -> str:
        names = re.findall(r"(\w+)=", call[1])
        return " and ".join(f"{_OPTIONS[name]} N" for name in names)

    return re.sub(r"schedule\.resolve\(([^)]*)\)", options, message, count=1)


def _words(text: str, schedule: Schedule, parsed: argparse.Namespace) -> str:
    lines = [text] if len(parsed.expression) > 1 else []
    lines.append(describe(schedule, parsed.steps))
    if parsed.steps is not None:
        findings = lint(schedule, parsed.steps, parsed.steps_per_epoch)
        lines += [f"? {finding}" for finding in findings]
    return "\n".join(lines)


def _shows_braille() -> bool:
    try:
        "⠿│".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
