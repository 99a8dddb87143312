"""Every kind of leaf and of structure comes back as it was, to the bit."""

from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from odyssey_jax.store import CheckpointMismatchError, Store, _layout, _snapshot
from tests.store.conftest import Box, Pair, assert_same, blank, save


def everything():
    rng = np.random.default_rng(0)
    return {
        "float32": jnp.asarray(rng.standard_normal((3, 5)), jnp.float32),
        "bfloat16": jnp.asarray(rng.standard_normal(7), jnp.bfloat16),
        "float16": jnp.ones((2, 2), jnp.float16),
        "int4": jnp.array([-8, 7, 3], jnp.int4),
        "uint4": jnp.array([0, 15], jnp.uint4),
        "float8": jnp.array([0.5, 2], jnp.float8_e4m3fn),
        "float8_e8m0fnu": np.array([0.5, 2], ml_dtypes.float8_e8m0fnu),
        "bool": jnp.array([True, False, True]),
        "complex": jnp.array([1 + 2j], jnp.complex64),
        "int64": np.arange(5, dtype=np.int64),
        "float64": np.array([np.pi, np.nan, -np.inf]),
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "numpy scalar": np.float32(3),
        "scalar": jnp.int32(9),
        "empty": jnp.zeros((0, 4)),
        "empty numpy": np.zeros((2, 0), np.int8),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4, impl="rbg"), (2, 3)),
        "raw key": jax.random.key_data(jax.random.key(3)),
        "python": [1, 2.5, float("nan"), True, "words", None],
        "pair": Pair(jnp.ones(2), None),
        "box": Box((jnp.zeros(3), [jnp.ones(1), {1: jnp.ones(1), 10: jnp.zeros(1)}])),
        "a.b": jnp.full(2, 1.0),
        "a": {"b": jnp.full(2, 2.0)},
        "": jnp.full(2, 3.0),
        "optimizer": optax.adam(1e-3).init({"w": jnp.ones(3)}),
        "nnx": nnx.split(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))[1],
    }


@pytest.mark.parametrize("on_device", [None, True])
def test_every_leaf_comes_back_to_the_bit(tmp_path, monkeypatch, on_device):
    """Packed by the host, and by the program that an accelerator would run."""
    found = partial(_snapshot.sources, on_device=on_device)
    monkeypatch.setattr(_snapshot, "sources", found)
    tree = everything()
    with Store(tmp_path) as store:
        save(store, 1, tree=tree)
        assert_same(store.restore(blank(tree)).tree, tree)


def test_a_target_may_be_shapes_alone(tmp_path):
    tree = {"w": jnp.arange(3.0), "key": jax.random.key(1), "none": None}
    shapes = jax.eval_shape(lambda: tree)
    with Store(tmp_path) as store:
        save(store, 1, tree=tree)
        assert_same(store.restore(shapes).tree, tree)


@pytest.mark.parametrize(
    "tree", [{}, None, {"a": None}, {"a": jnp.zeros(0)}, {"n": 3}, jnp.ones(2)]
)
def test_a_tree_of_next_to_nothing(tmp_path, tree):
    with Store(tmp_path) as store:
        save(store, 1, tree=tree)
        assert_same(store.restore(tree).tree, tree)


def test_an_array_longer_than_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(_layout, "CHUNK_BYTES", 2**15)
    tree = {"w": np.arange(9_011, dtype=np.int32), "v": np.arange(11, dtype=np.int32)}
    with Store(tmp_path) as store:
        save(store, 1, tree=tree)
        assert_same(store.restore(blank(tree)).tree, tree)
        assert len(list((tmp_path / "1" / "state" / "packed.int32").iterdir())) == 3


def test_the_source_may_be_donated_at_once(tmp_path):
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    tree = {"w": jnp.arange(100_000.0), "b": jnp.arange(7), "half": jnp.ones(300, jnp.bfloat16)}
    expected = jax.tree.map(np.array, tree)
    where = tree["w"].unsafe_buffer_pointer()
    with Store(tmp_path) as store:
        store.save(1, tree, {})
        after = update(tree)
        assert tree["w"].is_deleted()
        assert after["w"].unsafe_buffer_pointer() == where, "the save kept the buffer"
        store.wait()
        restored = store.restore(after).tree
    assert_same(jax.tree.map(np.asarray, restored), expected)


def test_what_is_restored_may_be_donated_and_does_not_change(tmp_path):
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    tree = {"w": jnp.arange(100_000.0), "v": jnp.zeros(1000)}
    with Store(tmp_path) as store:
        save(store, 1, tree=tree)
        first, second = store.restore(tree).tree, store.restore(tree).tree
        save(store, 2, tree={"w": jnp.zeros(100_000), "v": jnp.ones(1000)})  # the buffers again
        kept = jnp.copy(second["v"])
        stepped = update(update(first))
        assert_same(second, tree)
        assert first["w"].is_deleted()
        np.testing.assert_array_equal(stepped["w"], tree["w"] + 2)
        np.testing.assert_array_equal(kept, tree["v"])


def test_one_trace_and_one_compile_across_a_restore(tmp_path):
    traces = []

    @jax.jit
    def step(tree):
        traces.append(1)
        return jax.tree.map(lambda x: x + 1, tree)

    tree = step({"w": jnp.arange(3.0), "key": jnp.zeros((), jnp.int32)})
    with Store(tmp_path) as store:
        save(store, 1, tree=tree)
        step(tree)
        before = step._cache_size()
        step(store.restore(tree).tree)
    assert len(traces) == 1
    assert step._cache_size() == before


def test_a_numpy_leaf_that_is_restored_may_be_written_to(tmp_path):
    with Store(tmp_path) as store:
        save(store, 1, tree={"a": np.zeros(3), "b": np.zeros(3)})
        tree = store.restore({"a": np.zeros(3), "b": np.zeros(3)}).tree
        tree["a"][:] = 1
        assert tree["b"].sum() == 0


MISMATCHES = {
    "missing": ({"w": np.zeros(3)}, {"w": np.zeros(3), "b": np.zeros(2)}, "missing .*: ['b']"),
    "extra": ({"w": np.zeros(3), "b": np.zeros(2)}, {"w": np.zeros(3)}, "extra .*: ['b']"),
    "shape": (
        {"w": np.zeros(3)},
        {"w": np.zeros((3, 1))},
        "shape: ['w'] saved (3,), target (3, 1)",
    ),
    "dtype": (
        {"w": np.zeros(3)},
        {"w": np.zeros(3, np.float32)},
        "dtype: ['w'] saved float64, target float32",
    ),
    "typed key for raw": (
        {"k": jax.random.key_data(jax.random.key(0))},
        {"k": jax.random.key(0)},
        "dtype: ['k'] saved uint32, target key<fry>",
    ),
    "other key": (
        {"k": jax.random.key(0)},
        {"k": jax.random.key(0, impl="rbg")},
        "dtype: ['k'] saved key<fry>, target key<rbg>",
    ),
    "python number": (
        {"n": 3},
        {"n": np.zeros((), int)},
        "dtype: ['n'] saved int, target int64",
    ),
    "nested for dotted": (
        {"a.b": np.zeros(1)},
        {"a": {"b": np.zeros(1)}},
        "missing .*: ['a']['b']",
    ),
    "None for a leaf": ({"w": np.zeros(3)}, {"w": None}, "extra .*: ['w']"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_mismatch_names_the_leaf(tmp_path, case):
    saved, target, text = MISMATCHES[case]
    kind, _, rest = text.partition(" .*")
    with Store(tmp_path) as store:
        save(store, 1, tree=saved)
        with pytest.raises(CheckpointMismatchError) as caught:
            store.restore(target)
    message = str(caught.value)
    assert message.startswith(f"checkpoint of step 1 in '{tmp_path}' does not match the target")
    assert any(kind in line and rest in line for line in message.splitlines()[1:]), message


def test_a_checkpoint_of_another_model_and_of_another_optimizer(tmp_path):
    def state(width, optimizer):
        params = {"w": jnp.zeros((4, width)), "b": jnp.zeros(width)}
        return {"params": params, "optimizer": optimizer.init(params)}

    with Store(tmp_path) as store:
        save(store, 1, tree=state(3, optax.adam(1e-3)))
        with pytest.raises(CheckpointMismatchError) as model:
            store.restore(state(5, optax.adam(1e-3)))
        with pytest.raises(CheckpointMismatchError) as optimizer:
            store.restore(state(3, optax.sgd(1e-3, momentum=0.9)))
    assert model.value.shape["['params']['w']"] == ((4, 3), (4, 5))
    assert model.value.missing + model.value.extra == ()
    assert optimizer.value.missing == (
        "['optimizer'][0].trace['b']",
        "['optimizer'][0].trace['w']",
    )
    assert "['optimizer'][0].count" in optimizer.value.extra


def test_a_leaf_that_cannot_be_stored_is_named(tmp_path):
    with Store(tmp_path) as store:
        with pytest.raises(ValueError, match=r"leaf \['f'\] is a builtin.*cannot hold"):
            store.save(1, {"f": len}, {})
        with pytest.raises(ValueError, match=r"leaf \['o'\] is a ndarray of dtype object"):
            store.save(1, {"o": np.array([None])}, {})


def test_a_wide_leaf_is_not_narrowed(tmp_path):
    with Store(tmp_path) as store:
        save(store, 1, tree={"w": np.arange(3)})
        with pytest.raises(ValueError, match=r"leaf \['w'\] is int64.*jax_enable_x64"):
            store.restore({"w": jax.ShapeDtypeStruct((3,), np.dtype("int64"))})


def test_orbax_alone_reads_the_files(tmp_path):
    with Store(tmp_path) as store:
        store.save(4, {"w": jnp.arange(3.0), "b": jnp.ones(2)}, {"epoch": 2})
    handler = ocp.CompositeCheckpointHandler(
        state=ocp.PyTreeCheckpointHandler(),
        metadata=ocp.JsonCheckpointHandler(),
        layout=ocp.JsonCheckpointHandler(),
    )
    with ocp.Checkpointer(handler) as reader:
        plain = ocp.RestoreArgs(restore_type=np.ndarray)
        found = reader.restore(
            tmp_path / "4",
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(restore_args={"packed": {"float32": plain}}),
                metadata=ocp.args.JsonRestore(),
                layout=ocp.args.JsonRestore(),
            ),
        )
    flat = found.state["packed"]["float32"]
    for path, (size,), *_, offset in found.layout["leaves"]:
        expected = {"['w']": [0, 1, 2], "['b']": [1, 1]}[path]
        np.testing.assert_array_equal(flat[offset : offset + size], expected)
    assert found.metadata["epoch"] == 2


def test_orbax_reads_the_directory_as_before(tmp_path):
    with Store(tmp_path, keep_last=None) as store:
        save(store, 3, 4)
        store.pin(3)
    with ocp.CheckpointManager(tmp_path) as manager:
        assert sorted(manager.all_steps()) == [3, 4]
