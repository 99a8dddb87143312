"""Small tasks and data that the tests share: with batch statistics, dropout, in NNX and Linen."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx

import odyssey_jax as ody

CLASSES = 3


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        # No bias in front of the norm: its gradient is 0 but for rounding, which Adam blows up.
        self.hidden = nnx.Linear(4, 8, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


class LinenModel(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(8, use_bias=False)(x)
        x = linen.BatchNorm(use_running_average=not train)(x)
        x = linen.Dropout(0.3, deterministic=not train)(linen.relu(x))
        return linen.Dense(CLASSES)(x)


def cross_entropy(logits, labels):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), {"logits": logits, "labels": labels}


def nnx_loss(model, batch):
    return cross_entropy(model(batch["x"]), batch["y"])


def linen_loss(apply, batch, train):
    return cross_entropy(apply(batch["x"], train=train), batch["y"])


def linear_loss(params, batch):
    return cross_entropy(batch["x"] @ params["w"] + params["b"], batch["y"])


def nnx_task():
    return ody.nnx_task(NnxModel(nnx.Rngs(0)), nnx_loss)


def linen_task():
    return ody.linen_task(LinenModel(), linen_loss, jnp.zeros((1, 4)), train=False)


def linear_task():
    return ody.pure_task({"w": jnp.zeros((4, CLASSES)), "b": jnp.zeros(CLASSES)}, linear_loss)


TASKS = {"nnx": nnx_task, "linen": linen_task, "pure": linear_task}


@functools.cache
def arrays(examples=40, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, 4)).astype(np.float32)
    noise = 0.3 * rng.normal(size=(examples, CLASSES))
    y = (x @ np.linspace(-1, 1, 4 * CLASSES).reshape(4, CLASSES)[:, ::-1] ** 3 + noise).argmax(1)
    return {"x": x, "y": y.astype(np.int32)}


OPTIONS = {field.name for field in dataclasses.fields(ody.StepOptions)}


def make_loop(task, optimizer, **kwargs):
    """`make_loop`, with the options of the train step among the others."""
    given = {name: kwargs.pop(name) for name in OPTIONS & kwargs.keys()}
    return ody.train.make_loop(task, optimizer, options=ody.StepOptions(**given), **kwargs)


def train_data(batch_size=8, drop_remainder=True):
    return ody.ArrayDataset(arrays(), batch_size, shuffle=True, drop_remainder=drop_remainder)


def valid_data():
    return ody.ArrayDataset(arrays(22, seed=1), 8)  # the last batch is of 6


def assert_same(a, b):
    """Equal to the bit, structure, shapes, dtypes and NaN included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        if jnp.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        x, y = np.asarray(x), np.asarray(y)
        where = jax.tree_util.keystr(path)
        assert (x.dtype, x.shape) == (y.dtype, y.shape), where
        assert x.tobytes() == y.tobytes(), where
