"""Parameters from files of others: npz, msgpack, Orbax, safetensors, and a Hugging Face layout."""

import functools
from pathlib import Path

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint.experimental import v1
from safetensors.numpy import save_file

import odyssey_jax as ody


def make_model(seed):
    rngs = nnx.Rngs(seed)
    return nnx.Sequential(nnx.Linear(2, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 2, rngs=rngs))


# What others have saved:
theirs = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(make_model(1), nnx.Param)))
leaves, _ = jax.tree.flatten_with_path(theirs)
flat = {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}
np.savez("theirs.npz", **flat)
save_file({name.replace("/", "."): leaf for name, leaf in flat.items()}, "theirs.safetensors")
Path("theirs.msgpack").write_bytes(flax.serialization.to_bytes(theirs))
with ocp.StandardCheckpointer() as orbax:
    orbax.save(Path.cwd() / "orbax", theirs)
v1.save(Path.cwd() / "orbax_v1", theirs)

# --8<-- [start:load]
for path in ("theirs.npz", "theirs.safetensors", "theirs.msgpack", "orbax", "orbax_v1"):
    params = ody.load_params(path)  # nested dicts of NumPy arrays
    model = make_model(0)
    ody.update_model(model, params)  # every name, shape and dtype must agree
    print(path, np.array_equal(model.layers[0].kernel, theirs["layers"][0]["kernel"]))
# --8<-- [end:load]

# A part of a Llama, with the names and axes that its checkpoint has: linear layers are [out, in].
draw = np.random.default_rng(0).normal
save_file(
    {
        "model.embed_tokens.weight": draw(size=(100, 8)).astype(np.float32),
        "model.layers.0.mlp.gate_proj.weight": draw(size=(32, 8)).astype(np.float32),
        "model.layers.0.mlp.up_proj.weight": draw(size=(32, 8)).astype(np.float32),
        "model.layers.0.mlp.down_proj.weight": draw(size=(8, 32)).astype(np.float32),
        "lm_head.weight": draw(size=(100, 8)).astype(np.float32),
    },
    "llama.safetensors",
)


# --8<-- [start:huggingface]
class MLP(nnx.Module):
    def __init__(self, *, rngs):
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.gate_proj, self.up_proj, self.down_proj = linear(8, 32), linear(8, 32), linear(32, 8)


class Layer(nnx.Module):
    def __init__(self, *, rngs):
        self.mlp = MLP(rngs=rngs)


class Model(nnx.Module):
    def __init__(self, *, rngs):
        self.embed_tokens = nnx.Embed(100, 8, rngs=rngs)
        self.layers = nnx.List([Layer(rngs=rngs)])
        self.head = nnx.Linear(8, 5, rngs=rngs)  # another task's


model = Model(rngs=nnx.Rngs(0))
params = ody.load_params(
    "llama.safetensors",
    nnx.to_pure_dict(nnx.state(model, nnx.Param)),
    transfer=ody.Transfer(
        convert=functools.partial(ody.store.from_huggingface, family="llama"),
        ignore=["^lm_head"],  # names as they are in the file, converted
        initialize=["^head/"],  # stays as the model has it
    ),
)
ody.update_model(model, params)
print(model.layers[0].mlp.up_proj.kernel.shape)
# --8<-- [end:huggingface]
