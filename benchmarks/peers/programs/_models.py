"""The two models in NNX, for the programs that write the loop by hand."""

import jax.numpy as jnp
from flax import nnx


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Linear(64, 128, rngs=rngs)
        self.b = nnx.Linear(128, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.b(nnx.relu(self.a(x)))))


class CNN(nnx.Module):
    def __init__(self, rngs):
        self.a = nnx.Conv(3, 16, (3, 3), strides=2, rngs=rngs)
        self.b = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.c = nnx.Conv(32, 64, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = x.astype(jnp.float32) / 255
        for layer in (self.a, self.b, self.c):
            x = nnx.relu(layer(x))
        return self.head(x.mean((1, 2)))


MODELS = {"digits": MLP, "cnn": CNN}
