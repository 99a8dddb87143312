"""Other libraries' files, made by themselves: found by looking, read by name into the target."""

import functools
import json
import pickle
import tempfile
import zipfile

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import orbax.checkpoint.experimental.v1 as ocp1
import pytest
import safetensors.numpy
from flax import nnx, traverse_util

import odyssey_jax as ody
from odyssey_jax.errors import CheckpointCorruptError, CheckpointError, CheckpointMismatchError
from odyssey_jax.store import BucketPath, Reader, Store
from odyssey_jax.store._objects import Objects
from tests.store.conftest import rows

MODEL = {
    "layers": [
        {
            "kernel": np.arange(32.0, dtype=np.float32).reshape(8, 4) + n,
            "bias": np.full(4, n, np.float32),
        }
        for n in range(2)
    ],
    "half": np.array([0.5, -3.0, 1e30], "bfloat16"),
}
FLAT = traverse_util.flatten_dict(
    {"half": MODEL["half"], "layers": {str(n): layer for n, layer in enumerate(MODEL["layers"])}},
    sep=".",
)


def save_npz(path):
    flat = {name.replace(".", "/"): array for name, array in FLAT.items()}
    np.savez(path, **flat | {"half": MODEL["half"].astype(np.float32)})


def save_index(path):
    """Two files and the index that says what is in which, as Hugging Face has them."""
    names, files = sorted(FLAT), {}
    for number, part in enumerate((names[:2], names[2:])):
        file = f"model-0000{number}.safetensors"
        safetensors.numpy.save_file({name: FLAT[name] for name in part}, path / file)
        files |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def save_standard(path, **how):
    with ocp.StandardCheckpointer() as orbax:
        orbax.save(path, jax.tree.map(jnp.asarray, MODEL) | {"note": 3})


def save_manager(path):
    with ocp.CheckpointManager(path) as manager:
        for step in (5, 7):
            tree = jax.tree.map(functools.partial(jnp.multiply, step == 7), MODEL)
            manager.save(step, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()


def save_items(path):
    """A manager whose steps have a prefix and several items, one of which is JSON."""
    options = ocp.CheckpointManagerOptions(step_prefix="step", step_format_fixed_length=6)
    tree = jax.tree.map(jnp.asarray, MODEL)
    with ocp.CheckpointManager(path, options=options) as manager:
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(tree),
            optimizer=ocp.args.PyTreeSave(optax.adam(1e-3).init(tree)),
            about=ocp.args.JsonSave({"a": 1}),
        )
        manager.save(9, args=items)
        manager.wait_until_finished()


SAVED = {
    "safetensors": lambda d: safetensors.numpy.save_file(FLAT, d / "model.safetensors"),
    "index": save_index,
    "msgpack": lambda d: (d / "model.msgpack").write_bytes(flax.serialization.to_bytes(MODEL)),
    "npz": lambda d: save_npz(d / "model.npz"),
    "orbax standard": lambda d: save_standard(d / "model"),
    "orbax manager": lambda d: save_manager(d / "model"),
    "orbax items": lambda d: save_items(d / "model"),
    "orbax v1": lambda d: ocp1.save(d / "model", jax.tree.map(jnp.asarray, MODEL)),
}


@pytest.fixture(scope="module", params=SAVED)
def saved(request, tmp_path_factory):
    """The kind and where it is; of safetensors and others the directory will do."""
    directory = tmp_path_factory.mktemp("foreign")
    SAVED[request.param](directory)
    below = directory / "model"
    return request.param, below if below.exists() else directory


def model(kind):
    half = MODEL["half"].astype(np.float32) if kind == "npz" else MODEL["half"]
    return MODEL | {"half": half} | ({"note": 3} if kind == "orbax standard" else {})


def assert_equal(found, like):
    found = {ody.store._leaves.name_of(jax.tree_util.keystr(path)): leaf
             for path, leaf in jax.tree_util.tree_leaves_with_path(found)}  # fmt: skip
    like = {ody.store._leaves.name_of(jax.tree_util.keystr(path)): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(like)}  # fmt: skip
    assert found.keys() == like.keys()
    for name, leaf in found.items():
        assert np.asarray(leaf).dtype == np.asarray(like[name]).dtype, name
        np.testing.assert_array_equal(leaf, like[name])


def test_read_without_a_target(saved):
    kind, path = saved
    found = ody.load_params(path)
    assert_equal(found, model(kind))
    arrays = [leaf for leaf in jax.tree.leaves(found) if not isinstance(leaf, int)]
    assert all(type(leaf) is np.ndarray and leaf.flags.writeable for leaf in arrays)


def test_read_into_a_target_s_placement_by_name(saved):
    kind, path = saved
    like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    target = jax.tree.map(lambda x: x if isinstance(x, int) else like(x), model(kind))
    for layer in target["layers"]:
        layer["bias"] = np.zeros(4, np.float32)
        layer["kernel"] = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=rows(4))
    found = ody.load_params(path, target)
    assert_equal(found, model(kind))
    assert jax.tree.structure(found) == jax.tree.structure(target)
    kernel = found["layers"][1]["kernel"]
    assert kernel.sharding == rows(4)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 4)}
    assert isinstance(found["half"], jax.Array)


def four_parts():
    return ody.fully_sharded(rows(4).mesh, min_size=16)


def parts_of(found):
    """The shape of what each device has of an array, by the array's last key; of 4 devices."""
    leaves = [(x.key, y) for (*_, x), y in jax.tree_util.tree_leaves_with_path(found)]
    parts = [(key, x.addressable_shards) for key, x in leaves if isinstance(x, jax.Array)]
    assert {len(shards) for _, shards in parts} == {4}
    return {key: shard.data.shape for key, shards in parts for shard in shards}


def test_read_into_a_placement(saved, monkeypatch):
    kind, path = saved
    whole = []
    put = jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda x, *a, **k: whole.append(x) or put(x, *a, **k))
    like = model(kind)
    for target in (None, like):
        found = ody.load_params(path, target, placement=four_parts())
        assert_equal(found, jax.tree.map(lambda x: x if isinstance(x, int) else jnp.array(x), like))
        assert parts_of(found) == {"kernel": (2, 4), "bias": (4,), "half": (3,)}
    assert (8, 4) not in {np.shape(x) for x in jax.tree.leaves(whole)}


def in_bucket(url, path):
    """Copies files or a file to a bucket as they are; returns the URL."""
    files = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
    objects = Objects(BucketPath(url))
    if path.is_file():
        objects = Objects(BucketPath(url.rpartition("/")[0]))
        files = {path.name: path}
    objects.upload(files)
    return url


def test_read_from_a_bucket(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kind, path = saved
    url = in_bucket(f"memory://foreign-{kind.replace(' ', '-')}/models/one", path)
    assert_equal(ody.load_params(url), model(kind))
    assert parts_of(ody.load_params(url, placement=four_parts()))["kernel"] == (2, 4)
    with pytest.raises(CheckpointMismatchError, match=f"{url}.* does not match the target"):
        ody.load_params(url, {"half": np.zeros(2, np.float32)})
    assert not list(tmp_path.iterdir())


def test_from_a_bucket_a_step_a_file_and_what_is_none(tmp_path):
    save_manager(tmp_path / "manager")
    url = in_bucket("memory://foreign-steps/manager", tmp_path / "manager")
    assert not ody.load_params(url, step=5)["layers"][1]["kernel"].any()
    with pytest.raises(CheckpointError, match=rf"no step 6 in '{url}'; there are \[5, 7\]"):
        ody.load_params(url, step=6)
    save_npz(tmp_path / "a.npz")
    url = in_bucket("memory://foreign-steps/a.npz", tmp_path / "a.npz")
    assert ody.load_params(url).keys() == {"half", "layers"}
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    url = in_bucket("memory://foreign-steps/pytorch_model.bin", tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=f"'{url}' is a pickle, which is a program"):
        ody.load_params(url)
    with pytest.raises(CheckpointError, match="there is no checkpoint in 'memory://foreign-steps/"):
        ody.load_params("memory://foreign-steps/nothing")


def test_another_model_by_patterns(saved):
    _, path = saved
    target = {"blocks": {0: np.zeros((8, 4), np.float32)}, "head": np.ones(3)}
    transfer = ody.Transfer(
        rename={r"^layers/(\d)/kernel": r"blocks/\1"},
        ignore=["/bias$", "^half$", "^layers/1/", *(["^note"] if "standard" in saved[0] else [])],
        initialize=["^head$"],
    )
    found = ody.load_params(path, target, transfer=transfer)
    np.testing.assert_array_equal(found["blocks"][0], MODEL["layers"][0]["kernel"])
    np.testing.assert_array_equal(found["head"], np.ones(3))


def test_a_mismatch_says_what_is_there(saved):
    kind, path = saved
    with pytest.raises(CheckpointMismatchError, match=r"does not match.*ody\.Transfer") as caught:
        ody.load_params(path, {"half": np.zeros(2, np.float32)})
    assert "layers" in str(caught.value)
    assert len(caught.value.shape) == 1
    assert kind.split()[0] in str(caught.value).lower()


def test_a_step_and_a_node(tmp_path):
    save_manager(tmp_path / "manager")
    assert not ody.load_params(tmp_path / "manager", step=5)["layers"][1]["kernel"].any()
    kernel = ody.load_params(tmp_path / "manager", subtree="layers/1")["kernel"]
    np.testing.assert_array_equal(kernel, MODEL["layers"][1]["kernel"])
    with pytest.raises(CheckpointError, match=r"no step 6 in .*there are \[5, 7\]"):
        ody.load_params(tmp_path / "manager", step=6)
    with pytest.raises(CheckpointError, match=r"best step is not known here: give one of \[5, 7\]"):
        ody.load_params(tmp_path / "manager", step="best")
    with pytest.raises(
        CheckpointError, match="there is no subtree 'head'; there are 'half', 'layers'"
    ):
        ody.load_params(tmp_path / "manager", subtree="head")
    save_items(tmp_path / "items")
    found = ody.load_params(tmp_path / "items", subtree="optimizer/0/count")
    assert found == 0
    save_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.npz' has no steps: leave out step=3"):
        ody.load_params(tmp_path / "a.npz", step=3)
    with pytest.raises(ValueError, match=r"a\.npz' has no metrics: leave out monitor="):
        ody.load_params(tmp_path / "a.npz", monitor="loss")


def test_what_a_store_reads_of_somebody_else_s_is_not_called_corrupt(tmp_path):
    save_manager(tmp_path)
    reader = Reader(tmp_path)
    for read in (reader.load, lambda: reader.metadata(7), lambda: reader.latest(verify=True)):
        with pytest.raises(CheckpointError, match="is not odyssey_jax's, but another") as caught:
            read()
        assert not isinstance(caught.value, CheckpointCorruptError)
    with Store(tmp_path / "own") as store:
        store.save(3, {"w": np.ones(2)}, {})
    with pytest.raises(CheckpointError, match=r"is one step of a store: give .*own', and step=3"):
        ody.load_params(tmp_path / "own" / "3")
    transfer = ody.Transfer(convert=dict)
    with pytest.raises(ValueError, match="convert is for other libraries' files, and checkpoint"):
        ody.load_params(tmp_path / "own", {"w": np.ones(2)}, subtree="", transfer=transfer)


def test_what_is_not_read_is_named_with_what_is(tmp_path):
    """PyTorch's files: a pickle, by itself or in an archive."""
    data = pickle.dumps({"w": np.zeros(2)}, protocol=2)
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    (tmp_path / "unnamed").write_bytes(data)
    for path in (tmp_path / "pytorch_model.bin", tmp_path):
        with pytest.raises(CheckpointError, match=r"a pickle, which is a program, .*safetensors\."):
            ody.load_params(path)
    with pytest.raises(CheckpointError, match=r"none of these and is not read\. read are the dir"):
        ody.load_params(tmp_path / "unnamed")
    with zipfile.ZipFile(tmp_path / "archive", "w") as file:
        file.writestr("model/data.pkl", data)
    with pytest.raises(CheckpointError, match=r"holds 'model/data\.pkl', which is no array"):
        ody.load_params(tmp_path / "archive")


def broken(tmp_path):
    """Files that are called as what they are not, or have lost their ends."""
    whole = safetensors.numpy.save(FLAT)
    yield "short.safetensors", whole[:-1], "cannot lie at"
    yield "none.safetensors", b"", "it has no header"
    header = json.dumps({"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}).encode()
    yield "odd.safetensors", len(header).to_bytes(8, "little") + header + bytes(4), "F99"
    header = header.replace(b"F99", b"F32").replace(b"[1]", b"[-1]")
    yield "minus.safetensors", len(header).to_bytes(8, "little") + header + bytes(4), "cannot lie"
    yield "short.msgpack", flax.serialization.to_bytes(MODEL)[:-1], "as Flax's msgpack"
    yield "text", b"hello", "none of these and is not read"
    yield "short.npz", b"PK\3\4 and no more", r"the \.npz file .* cannot be read"
    yield "model.h5", b"\x89HDF\r\n", "load it with Keras"
    yield "a.safetensors.index.json", b"{}", "is no index of safetensors files"
    index = json.dumps({"weight_map": {"w": "../w.safetensors"}}).encode()
    yield "b.safetensors.index.json", index, "it names files elsewhere"
    index = json.dumps({"weight_map": {"w": "gone.safetensors"}}).encode()
    yield "c.safetensors.index.json", index, r"not there: \['gone.safetensors'\]"


def test_what_is_broken_is_one_error(tmp_path):
    for name, data, message in broken(tmp_path):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=message) as caught:
            ody.load_params(tmp_path / name)
        assert not isinstance(caught.value, CheckpointCorruptError), name
        (tmp_path / name).unlink()
    with zipfile.ZipFile(tmp_path / "objects.npz", "w") as file, file.open("w.npy", "w") as w:
        np.save(w, np.array([object()]), allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"objects\.npz' cannot be read"):
        ody.load_params(tmp_path / "objects.npz")


def test_a_name_that_goes_on_where_an_array_is_stays_whole(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(1), "a.b": np.zeros(2)}, tmp_path / "x.safetensors")
    assert ody.load_params(tmp_path / "x.safetensors").keys() == {"a", "a.b"}


def test_the_params_of_a_larger_tree(tmp_path):
    state = {"params": {"w": np.ones(2)}, "step": 3}
    (tmp_path / "state.msgpack").write_bytes(flax.serialization.to_bytes(state))
    assert ody.load_params(tmp_path / "state.msgpack").keys() == {"w"}
    assert ody.load_params(tmp_path / "state.msgpack", subtree="step") == 3


def test_what_is_exported_comes_back(tmp_path):
    tree = {"dense": {"kernel": np.ones((2, 3)), "bias": np.zeros(3, np.float32)}}
    for format in ("safetensors", "orbax"):
        assert_equal(ody.load_params(ody.store.export(tree, tmp_path / format, format)), tree)


# Hugging Face's names, with the shapes of PyTorch's modules.
GPT2 = {
    "transformer.wte.weight": (11, 4), "transformer.wpe.weight": (5, 4),
    **{f"transformer.h.{n}.{name}": shape for n in range(2) for name, shape in {
        "ln_1.weight": (4,), "ln_1.bias": (4,), "attn.bias": (1, 1, 5, 5),
        "attn.c_attn.weight": (4, 12), "attn.c_attn.bias": (12,),
        "attn.c_proj.weight": (4, 4), "mlp.c_fc.weight": (4, 16), "mlp.c_proj.weight": (16, 4),
    }.items()},
    "transformer.ln_f.weight": (4,), "lm_head.weight": (11, 4),
}  # fmt: skip
LLAMA = {
    "model.embed_tokens.weight": (11, 4), "model.norm.weight": (4,), "lm_head.weight": (11, 4),
    **{f"model.layers.{n}.{name}": shape for n in range(2) for name, shape in {
        "self_attn.q_proj.weight": (8, 4), "self_attn.rotary_emb.inv_freq": (2,),
        "mlp.down_proj.weight": (4, 16), "input_layernorm.weight": (4,),
        "self_attn.q_norm.weight": (4,), "self_attn.q_proj.bias": (8,),
    }.items()},
}  # fmt: skip
BERT = {
    "bert.embeddings.word_embeddings.weight": (11, 4), "bert.embeddings.position_ids": (1, 5),
    "bert.embeddings.LayerNorm.gamma": (4,), "bert.embeddings.LayerNorm.beta": (4,),
    "bert.encoder.layer.0.attention.self.query.weight": (4, 6),
    "bert.encoder.layer.0.attention.output.LayerNorm.weight": (4,),
    "bert.pooler.dense.weight": (4, 6), "cls.predictions.bias": (11,),
    "cls.predictions.transform.dense.weight": (4, 6),
}  # fmt: skip
VIT = {
    "vit.embeddings.cls_token": (1, 1, 4), "vit.embeddings.position_embeddings": (1, 5, 4),
    "vit.embeddings.patch_embeddings.projection.weight": (4, 3, 8, 9),
    "vit.encoder.layer.0.attention.attention.query.weight": (4, 6),
    "vit.encoder.layer.0.layernorm_before.weight": (4,), "vit.layernorm.weight": (4,),
    "classifier.weight": (2, 4),
}  # fmt: skip
BECOMES = {
    "gpt2": (GPT2, {
        "wte/embedding": (11, 4), "wpe/embedding": (5, 4), "ln_f/scale": (4,),
        "lm_head/kernel": (4, 11), "h/ln_1/scale": (2, 4), "h/ln_1/bias": (2, 4),
        "h/attn/c_attn/kernel": (2, 4, 12), "h/attn/c_attn/bias": (2, 12),
        "h/attn/c_proj/kernel": (2, 4, 4), "h/mlp/c_fc/kernel": (2, 4, 16),
        "h/mlp/c_proj/kernel": (2, 16, 4),
    }),
    "llama": (LLAMA, {
        "embed_tokens/embedding": (11, 4), "norm/scale": (4,), "lm_head/kernel": (4, 11),
        "layers/self_attn/q_proj/kernel": (2, 4, 8), "layers/self_attn/q_proj/bias": (2, 8),
        "layers/mlp/down_proj/kernel": (2, 16, 4), "layers/input_layernorm/scale": (2, 4),
        "layers/self_attn/q_norm/scale": (2, 4),
    }),
    "bert": (BERT, {
        "embeddings/word_embeddings/embedding": (11, 4), "embeddings/LayerNorm/scale": (4,),
        "embeddings/LayerNorm/bias": (4,), "pooler/dense/kernel": (6, 4),
        "encoder/layer/attention/self/query/kernel": (1, 6, 4),
        "encoder/layer/attention/output/LayerNorm/scale": (1, 4),
        "cls/predictions/bias": (11,), "cls/predictions/transform/dense/kernel": (6, 4),
    }),
    "vit": (VIT, {
        "embeddings/cls_token": (1, 1, 4), "embeddings/position_embeddings": (1, 5, 4),
        "embeddings/patch_embeddings/projection/kernel": (8, 9, 3, 4),
        "encoder/layer/attention/attention/query/kernel": (1, 6, 4),
        "encoder/layer/layernorm_before/scale": (1, 4), "layernorm/scale": (4,),
        "classifier/kernel": (4, 2),
    }),
}  # fmt: skip


def arrays(shapes):
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype("f") for name, shape in shapes.items()}


@pytest.mark.parametrize("family", BECOMES)
def test_the_layouts_of_hugging_face(family):
    given, becomes = BECOMES[family]
    given = arrays(given)
    stacked = ody.store.from_huggingface(given, family, stacked=True)
    assert {name: array.shape for name, array in stacked.items()} == becomes
    apart = ody.store.from_huggingface(given, family)
    layers = ody.store._huggingface.FAMILIES[family].layers
    again = ody.store.unstack_layers(stacked, layers)
    assert again.keys() == apart.keys()
    assert all(np.array_equal(again[name], apart[name]) for name in apart)
    bare = {name.removeprefix(f"{family}.").removeprefix("transformer."): x
            for name, x in given.items()}  # fmt: skip
    assert ody.store.from_huggingface(bare, family).keys() == apart.keys()


def test_what_is_transposed_computes_the_same():
    random = np.random.default_rng(0)
    linear, conv, x, image = (
        random.standard_normal(shape) for shape in [(8, 4), (5, 3, 2, 4), (2, 4), (1, 3, 6, 8)]
    )
    weights = {"model.layers.0.mlp.up_proj.weight": linear, "patch.weight": conv}
    found = ody.store.from_huggingface(weights, "llama")
    np.testing.assert_array_equal(x @ found["layers/0/mlp/up_proj/kernel"], x @ linear.T)
    convolved = lambda kernel, order: jax.lax.conv_general_dilated(
        image, kernel, (1, 1), "VALID", dimension_numbers=("NCHW", order, "NCHW")
    )
    np.testing.assert_allclose(
        convolved(found["patch/kernel"], "HWIO"), convolved(conv, "OIHW"), rtol=1e-5, atol=1e-5
    )


def test_a_transfer_converts_and_renames_into_a_sharded_target(tmp_path):
    given = arrays(LLAMA)
    safetensors.numpy.save_file(given, tmp_path / "model.safetensors")
    kernel = jax.ShapeDtypeStruct((2, 4, 8), jnp.float32, sharding=rows(2))
    convert = functools.partial(ody.store.from_huggingface, family="llama", stacked=True)
    transfer = ody.Transfer(
        convert=convert, rename={"^layers/self_attn/q_proj/": "blocks/q/"},
        ignore=["norm/", "down_proj", "^lm_head", "embed", "q_proj/bias"],
    )  # fmt: skip
    found = ody.load_params(tmp_path, {"blocks": {"q": {"kernel": kernel}}}, transfer=transfer)
    q = [given[f"model.layers.{n}.self_attn.q_proj.weight"].T for n in range(2)]
    np.testing.assert_array_equal(found["blocks"]["q"]["kernel"], np.stack(q))
    assert found["blocks"]["q"]["kernel"].sharding == rows(2)
    with pytest.raises(ValueError, match="convert must return a dict of arrays by name, got list"):
        ody.load_params(tmp_path, {}, transfer=ody.Transfer(convert=list))
    with pytest.raises(ValueError, match="convert must be a function of arrays by name, got 3"):
        ody.Transfer(convert=3)


def test_what_cannot_be_stacked_is_refused():
    with pytest.raises(ValueError, match="h/w is in 1 of 2, of the shapes"):
        ody.store.stack_layers({"h/1/w": np.zeros(2)}, "h")
    with pytest.raises(ValueError, match="cannot be stacked: h/w is in 2 of 2"):
        ody.store.stack_layers({"h/0/w": np.zeros(2), "h/1/w": np.zeros(3)}, "h")
    with pytest.raises(ValueError, match="are of .* layers, which must be 1"):
        ody.store.unstack_layers({"h/w": np.zeros(2), "h/b": np.zeros(3)}, "h")
    with pytest.raises(ValueError, match="family must be one of 'gpt2', 'llama', 'bert', 'vit'"):
        ody.store.from_huggingface({}, "t5")


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(3, rngs=rngs)


def test_a_model_takes_what_comes(tmp_path):
    model, other = Net(nnx.Rngs(0)), Net(nnx.Rngs(1))
    flat = {
        ".".join(map(str, path)): np.asarray(x)
        for path, x in nnx.to_flat_state(nnx.state(other, nnx.Param))
    }
    safetensors.numpy.save_file(flat, tmp_path / "net.safetensors")
    ody.update_model(model, ody.load_params(tmp_path / "net.safetensors"))
    for a, b in zip(
        *(jax.tree.leaves(nnx.state(x, nnx.Param)) for x in (model, other)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    third = Net(nnx.Rngs(2))
    target = nnx.to_pure_dict(nnx.state(third, nnx.Param))
    ody.update_model(third, ody.load_params(tmp_path / "net.safetensors", target))
    with ocp.StandardCheckpointer() as orbax:
        orbax.save(tmp_path / "state", nnx.state(other, nnx.Param))
    state = nnx.state(Net(nnx.Rngs(3)), nnx.Param)
    fourth = Net(nnx.Rngs(3))
    ody.update_model(fourth, ody.load_params(tmp_path / "state", state))
    for x in (third, fourth):
        np.testing.assert_array_equal(x.layers[1].kernel[...], other.layers[1].kernel[...])


def test_what_is_not_like_a_model_is_listed_and_changes_nothing():
    model = Net(nnx.Rngs(0))
    before = model.layers[0].kernel[...]
    with pytest.raises(ValueError, match="not like Net: head has no variable") as caught:
        ody.update_model(model, {
            "head": np.zeros(2), "layers": {0: {"kernel": np.ones((3, 2), np.float32)}},
        })  # fmt: skip
    assert "layers/0/kernel is float32[3, 2], not float32[3, 3]" in str(caught.value)
    assert "parameter layers/1/bias has no array" in str(caught.value)
    assert model.layers[0].kernel[...] is before
    mean = {"norm": {"mean": np.ones(3, np.float32)}}
    ody.update_model(model, mean, partial=True)
    assert model.norm.mean[...].sum() == 3
    with pytest.raises(TypeError, match=r"model must be an nnx\.Module, got dict"):
        ody.update_model({}, {})
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[2])
    nnx.update(model, jax.device_put(nnx.state(model, nnx.Param), sharding))
    kernel = {"layers": [{"kernel": np.ones((3, 3), np.float32)}]}
    ody.update_model(model, kernel, partial=True)
    assert model.layers[0].kernel[...].sharding == sharding
