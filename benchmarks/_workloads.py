"""What is trained on streams: three models, and their data as files that are mapped."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import odyssey_jax as ody
from odyssey_jax._digits import MLP, load_digits, loss_fn

IMAGE = (64, 64, 3)
CONTEXT, WIDTH = 128, 64


class Examples:
    """Arrays in files, mapped where they are first read: also in another process.

    Args:
        paths: Name -> the file of `np.save`.
        count: How many of the examples there are; None is all.
    """

    def __init__(self, paths: Mapping[str, Path], count: int | None = None):
        self.paths, self.count = dict(paths), count
        self._arrays: dict[str, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_arrays": None}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The maps."""
        if self._arrays is None:
            load = lambda path: np.load(path, mmap_mode="r")[: self.count]
            self._arrays = {name: load(path) for name, path in self.paths.items()}
        return self._arrays

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: Any) -> dict[str, np.ndarray]:
        return {name: x[index] for name, x in self.arrays.items()}

    def batches(self, size: int, index: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield the whole batches of a pass in an order of its own, as people write it."""
        order = np.random.default_rng(index).permutation(len(self))
        for start in range(0, len(order) - size + 1, size):
            yield self[order[start : start + size]]


class Workload(NamedTuple):
    """A model and what it is trained on.

    Attributes:
        name: What tables call it.
        task: The model and its loss.
        examples: The data.
        batch_size: Examples in a batch.
        steps: Steps of a timed run.
        ahead: Steps of the run before it.
        chunk: Batches in a chunk: so few that a run has many, and reads as it trains.
        bound: On the time of streamed over that of resident.
        for_grain: What is other where Grain reads, which takes longer than the steps.
    """

    name: str
    task: ody.Task
    examples: Examples
    batch_size: int
    steps: int
    ahead: int
    chunk: int
    bound: float
    for_grain: Mapping[str, int] = {}


def digits(folder: Path, *, quick: bool) -> Workload:
    """The MLP of `odyssey-jax train`, whose epoch takes 3 ms."""
    train, _, _ = load_digits(32)
    model = MLP((128, 64), 0.0, rngs=nnx.Rngs(0))
    examples = saved(folder, "digits", {name: np.asarray(x) for name, x in train.data.items()})
    task = ody.nnx_task(model, loss_fn)
    slowly = {"steps": 156, "ahead": 78, "chunk": 16}
    steps = 39 * (60 if quick else 200)
    return Workload("digits", task, examples, 32, steps, 39 * 27, 256, 2.0, slowly)


class CNN(nnx.Module):
    """[batch, 64, 64, 3] pixels to [batch, 10] logits."""

    def __init__(self, *, rngs: nnx.Rngs):
        conv = lambda i, o: nnx.Conv(i, o, (3, 3), strides=2, rngs=rngs)
        self.layers = nnx.List([conv(3, 16), conv(16, 32), conv(32, 64)])
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x.mean((1, 2)))


def image_loss(model: CNN, batch: dict[str, jax.Array]) -> jax.Array:
    logits = model(batch["image"] / jnp.float32(255))
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()


def images(folder: Path, *, quick: bool) -> Workload:
    """A small CNN on images of 12 KiB: 2 GB of them, or 100 MB."""
    count = 8_000 if quick else 163_000
    random, path = np.random.default_rng(0), folder / "image.npy"
    written = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *IMAGE))
    for start in range(0, count, 1_000):
        written[start : start + 1_000] = random.integers(256, size=(1_000, *IMAGE), dtype=np.uint8)
    written.flush()
    labels = saved(folder, "images", {"label": random.integers(10, size=count, dtype=np.int32)})
    examples = Examples({"image": path, **labels.paths})
    steps = 40 if quick else 320
    task = ody.nnx_task(CNN(rngs=nnx.Rngs(0)), image_loss)
    return Workload("cnn", task, examples, 32, steps, 40, 8, 1.10)


class Transformer(nnx.Module):
    """[batch, CONTEXT] bytes to [batch, CONTEXT, 256] logits of the next one."""

    def __init__(self, depth: int = 2, *, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(256, WIDTH, rngs=rngs)
        self.places = nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        make = lambda: nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.attentions = nnx.List([make() for _ in range(depth)])
        self.wide = nnx.List([nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs) for _ in range(depth)])
        self.narrow = nnx.List([nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs) for _ in range(depth)])
        self.norms = nnx.List([nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(2 * depth)])

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x)
        x = self.tokens(x) + self.places(jnp.arange(CONTEXT))
        norms = iter(self.norms)
        for attention, wide, narrow in zip(self.attentions, self.wide, self.narrow, strict=True):
            x = x + attention(next(norms)(x), mask=mask)
            x = x + narrow(nnx.gelu(wide(next(norms)(x))))
        return self.tokens.attend(x)


def text_loss(model: Transformer, batch: dict[str, jax.Array]) -> jax.Array:
    text = batch["text"].astype(jnp.int32)
    logits = model(text[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:]).mean()


def sources(folder: Path, *, quick: bool) -> Workload:
    """A byte transformer on the Python standard library's sources."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = np.frombuffer(b"".join(path.read_bytes() for path in files), np.uint8)
    rows = len(text) // (CONTEXT + 1)
    text = text[: rows * (CONTEXT + 1)].reshape(rows, CONTEXT + 1)
    examples = saved(folder, "sources", {"text": text})
    task = ody.nnx_task(Transformer(rngs=nnx.Rngs(0)), text_loss)
    return Workload("transformer", task, examples, 8, 80 if quick else 320, 40, 8, 1.10)


def saved(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> Examples:
    """Save arrays, to be mapped."""
    paths = {key: folder / f"{name}_{key}.npy" for key in arrays}
    for key, path in paths.items():
        np.save(path, arrays[key])
    return Examples(paths)
