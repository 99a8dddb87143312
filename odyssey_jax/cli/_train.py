"""`odyssey-jax train`: the main job."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from odyssey_jax._digits import Options, train_digits
from odyssey_jax.store import Store

_HELP = {
    "hidden": "widths of the hidden layers",
    "dropout": "share of activations dropped in training",
    "learning_rate": "peak learning rate",
    "end_learning_rate": "learning rate at the end of the cosine",
    "warmup_epochs": "epochs of linear warm-up, part of --epochs",
    "weight_decay": "AdamW's weight decay",
    "batch_size": "examples in a batch",
    "epochs": "most epochs to train for; the cosine ends there",
    "patience": "epochs without a better validation loss after which to stop",
    "save_every": "epochs from one checkpoint to the next",
    "seed": "seed of the parameters, the shuffles and the dropout",
}


def add_parser(commands: Any) -> None:
    """Adds the command."""
    train = commands.add_parser(
        "train",
        help="train a network on handwritten digits",
        description="Trains a network on scikit-learn's handwritten digits, with warm-up, "
        "cosine decay, early stopping and checkpoints. Run again, it goes on where it was.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.add_argument("--directory", type=Path, default=Path("runs/digits"), help="of the run")
    train.add_argument("--fresh", action="store_true", help="start over in the directory")
    train.add_argument(
        "--max-time",
        type=float,
        metavar="SECONDS",
        help="save and stop after so long, with exit status 124; Ctrl-C does it with 130, "
        "SIGTERM with 143",
    )
    for field in dataclasses.fields(Options):
        many = isinstance(field.default, tuple)
        train.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=int if many else type(field.default),
            nargs="*" if many else None,
            default=field.default,
            metavar="N" if many or isinstance(field.default, int) else "X",
            help=_HELP[field.name],
        )
    train.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Trains; returns the exit status."""
    names = [field.name for field in dataclasses.fields(Options)]
    given = {name: getattr(parsed, name) for name in names}
    options = Options(**{**given, "hidden": tuple(given["hidden"])})
    if not parsed.fresh:
        _check_same_options(parsed.directory, options)
    holds = f"{parsed.directory} holds the run up to its last checkpoint"
    try:
        return train_digits(options, parsed.directory, parsed.fresh, parsed.max_time)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {holds}") from None
    except SystemExit:
        print(f"odyssey-jax: ended by SIGTERM; {holds}", file=sys.stderr)
        raise


def _check_same_options(directory: Path, options: Options) -> None:
    """Refuses to go on with a run under other options than it was begun with."""
    checkpoints = directory / "checkpoints"
    if not checkpoints.is_dir():
        return
    with Store(checkpoints) as store:
        if not store.steps():
            return
        then = store.metadata(store.steps()[-1]).get("config", {})
    now = dataclasses.asdict(options) | {"hidden": list(options.hidden)}
    differs = [
        f"--{name.replace('_', '-')} {then.get(name)} then, {value} now"
        for name, value in now.items()
        if then.get(name) != value
    ]
    if differs:
        raise ValueError(
            f"the run in {directory} was begun with other options: {'; '.join(differs)}. Use "
            "those, another --directory, or --fresh to start over."
        )
