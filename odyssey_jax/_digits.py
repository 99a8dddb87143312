"""The main job: train a small network on handwritten digits."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

import odyssey_jax as ody
from odyssey_jax._text import missing
from odyssey_jax.plots import save_confusion, save_curves

CLASSES = 10


def _option(default: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `odyssey-jax train`, with their defaults and help."""

    hidden: tuple[int, ...] = _option((128, 64), "widths of the hidden layers")
    dropout: float = _option(0.2, "share of activations dropped in training")
    learning_rate: float = _option(3e-3, "peak learning rate")
    end_learning_rate: float = _option(0.0, "learning rate at the end of the cosine")
    warmup_epochs: int = _option(3, "epochs of linear warm-up, part of --epochs")
    weight_decay: float = _option(1e-4, "weight decay of AdamW")
    batch_size: int = _option(32, "examples in a batch")
    epochs: int = _option(100, "most epochs to train for; the cosine ends there")
    patience: int = _option(15, "epochs without a better validation loss before stopping")
    save_every: int = _option(5, "epochs between checkpoints")
    seed: int = _option(0, "seed of the parameters, the shuffles and the dropout")

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"--hidden must be widths of at least 1, got {list(self.hidden)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout must be at least 0 and less than 1, got {self.dropout}.")
        if self.epochs < 1:
            raise ValueError(f"--epochs must be at least 1, got {self.epochs}.")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(
                f"--warmup-epochs must be from 0 to --epochs, {self.epochs}; got "
                f"{self.warmup_epochs}: pass fewer of them, or more --epochs."
            )


class MLP(nnx.Module):
    """A multi-layer perceptron: [batch, 64] pixels to [batch, 10] logits."""

    def __init__(self, hidden: tuple[int, ...], dropout: float, *, rngs: nnx.Rngs):
        sizes = (64, *hidden)
        pairs = itertools.pairwise(sizes)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(sizes[-1], CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = self.dropout(nnx.relu(layer(x)))
        return self.head(x)


def loss_fn(model: nnx.Module, batch: dict[str, jax.Array]):
    """Return the cross-entropy, and the outputs that the metrics need."""
    logits = model(batch["image"])  # type: ignore[operator]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return losses.mean(), {"logits": logits, "labels": batch["label"]}


def load_digits(batch_size: int) -> tuple[ody.ArrayDataset, ody.ArrayDataset, ody.ArrayDataset]:
    """Load scikit-learn's 1,797 digits: 70 % to train on, 10 % to validate, 20 % to test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing("scikit-learn", "digits") from error

    digits: Any = load_digits()
    # The same split for every seed, so that runs can be compared.
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.data[order] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int32)

    def part(start: float, end: float, batch_size: int, **how: Any) -> ody.ArrayDataset:
        cut = slice(round(start * len(labels)), round(end * len(labels)))
        data = {"image": images[cut], "label": labels[cut]}
        return ody.ArrayDataset(data, batch_size, **how)

    train = part(0.0, 0.7, batch_size, shuffle=True, drop_remainder=True)
    return train, part(0.7, 0.8, 90), part(0.8, 1.0, 180)


def train_digits(
    options: Options, directory: Path, fresh: bool, max_time: float | None = None
) -> int:
    """Train, test on data that neither training nor validation saw, and draw the pictures.

    Returns:
        The exit status; an interrupted run is not tested.
    """
    console = Console()
    train, valid, test = load_digits(options.batch_size)
    schedule = ody.warmup_cosine(
        options.learning_rate,
        warmup_steps=options.warmup_epochs * train.steps_per_pass,
        total_steps=options.epochs * train.steps_per_pass,
        end_value=options.end_learning_rate,
    )
    task = ody.nnx_task(MLP(options.hidden, options.dropout, rngs=nnx.Rngs(options.seed)), loss_fn)
    result = ody.fit(
        task,
        lambda rate: optax.adamw(rate, weight_decay=options.weight_decay),
        train,
        valid,
        epochs=options.epochs,
        learning_rate=schedule,
        metrics={"accuracy": ody.Accuracy()},
        callbacks=ody.chain(
            ody.early_stopping("valid/loss", options.patience, restore_best=True),
            ody.checkpoint(
                every_epochs=options.save_every, keep_last=1, keep_best=1, monitor="valid/loss"
            ),
        ),
        seed=options.seed,
        directory=directory,
        resume=False if fresh else "latest",
        config=dataclasses.asdict(options),
        max_time=max_time,
        on_interrupt="return",
    )
    if result.exit_code:
        console.print(f"stopped: {result.reason}, after {result.steps} steps")
        console.print(f"in {directory}: checkpoints, metrics.jsonl; the run goes on from there")
        return result.exit_code
    metrics = {"accuracy": ody.Accuracy(), "confusion": ody.ConfusionMatrix(CLASSES)}
    tested = ody.evaluate(task, result.state, test, metrics)
    counts = np.asarray(tested["confusion"])
    save_curves(result.history, directory / "curves.png", best_epoch=result.best_epoch)
    save_confusion(counts, directory / "confusion.png")
    console.print(_class_table(counts))
    if np.isnan(result.steps_per_second):
        console.print(f"complete already: {result.reason}; --fresh begins again")
    else:
        console.print(f"stopped: {result.reason}")
    console.print(f"best epoch {result.best_epoch} of {result.epochs} (from 0), restored")
    console.print(f"test accuracy {float(tested['accuracy']):.4f}", highlight=False)
    console.print(f"in {directory}: checkpoints, metrics.jsonl, curves.png, confusion.png")
    return 0


def _class_table(counts: np.ndarray) -> Table:
    matrix = ody.ConfusionMatrix(CLASSES, counts=jnp.asarray(counts))
    columns = [np.asarray(x()) for x in (matrix.precision, matrix.recall, matrix.f1)]
    table = Table(title="test data, by class", title_justify="left")
    for name in ("digit", "precision", "recall", "F1", "examples"):
        table.add_column(name, justify="right")
    for digit, (*shares, examples) in enumerate(zip(*columns, counts.sum(axis=1), strict=True)):
        table.add_row(str(digit), *(f"{share:.3f}" for share in shares), str(examples))
    return table
