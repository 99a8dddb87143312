"""Saves that overlap: a bounded number waits, all are committed, in their order."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odyssey_jax.store import CheckpointError, CheckpointWriteError, Store
from odyssey_jax.store._snapshot import Planner

pytestmark = pytest.mark.usefixtures("plain_writer")


def tree(value):
    return {"w": np.full(1000, float(value)), "n": jnp.full(3, value)}


def save_in_thread(store, step):
    thread = threading.Thread(target=lambda: store.save(step, tree(step), {}))
    thread.start()
    return thread


def test_a_save_waits_only_at_the_bound(tmp_path, gate):
    with Store(tmp_path, keep_last=None, max_in_flight=3) as store:
        changing = tree(0)
        for step in range(3):
            assert not store.would_block
            changing["w"][:] = step
            store.save(step, changing, {})
            assert store.in_flight == step + 1
        assert store.would_block
        thread = save_in_thread(store, 3)
        thread.join(0.1)
        assert thread.is_alive()
        assert store.steps() == ()
        gate.set()
        thread.join()
        store.wait()
        assert (store.in_flight, store.would_block) == (0, False)
        assert store.steps() == (0, 1, 2, 3)
        for step in range(3):  # each had memory of its own
            np.testing.assert_array_equal(store.restore(tree(0), step).tree["w"], float(step))


def test_saves_are_committed_in_their_order(tmp_path, monkeypatch):
    from odyssey_jax.store import _orbax

    order, write = [], _orbax.Writer.write
    monkeypatch.setattr(_orbax.Writer, "write", lambda *args: (write(*args), order.append(args[1])))
    with Store(tmp_path, keep_last=2, max_in_flight=4) as store:
        for step in (3, 1, 4, 15, 9, 2, 6):
            store.save(step, tree(step), {})
    assert order == [3, 1, 4, 15, 9, 2, 6]


def test_memory_is_used_again(tmp_path, gate):
    with Store(tmp_path, max_in_flight=2) as store:
        store.save(0, tree(0), {})
        store.save(1, tree(1), {})
        gate.set()
        store.wait()
        buffers = [id(staging.packed["float64"]) for staging in store._staging]
        assert len(set(buffers)) == 2, "one for each save in flight"
        for step in range(2, 6):
            store.save(step, tree(step), {})
            store.wait()
        assert [id(staging.packed["float64"]) for staging in store._staging] == buffers
    assert not store._staging


def test_a_step_in_flight_is_not_saved_twice(tmp_path, gate):
    with Store(tmp_path) as store:
        store.save(1, tree(1), {})
        with pytest.raises(CheckpointError, match="step 1 is being saved already"):
            store.save(1, tree(1), {})
        gate.set()


def test_each_failure_is_told(tmp_path, monkeypatch):
    from odyssey_jax.store import _orbax

    gate, write = threading.Event(), _orbax.Writer.write

    def fail_first(writer, step, *rest):
        gate.wait(60)
        if step < 2:
            raise OSError(28, "No space left on device")
        write(writer, step, *rest)

    monkeypatch.setattr(_orbax.Writer, "write", fail_first)
    with Store(tmp_path, max_in_flight=3) as store:
        for step in range(3):
            store.save(step, tree(step), {})
        gate.set()
        with pytest.raises(CheckpointWriteError, match="step 0 was not written") as caught:
            store.wait()
        (note,) = caught.value.__notes__
        assert "step 1 was not written" in note
        store.wait()
        assert store.steps() == (2,), "a save that fails takes no other with it"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "int4", "complex64"])
def test_the_carry_is_free_for_donation_at_once(tmp_path, gate, dtype):
    """Donated while the save is held back: its buffers are used again, none is copied."""
    update = jax.jit(lambda t: jax.tree.map(lambda x: x + x, t), donate_argnums=0)
    carry = {"a": jnp.ones((20, 30), dtype), "b": jnp.ones((), dtype)}
    carry = jax.block_until_ready(update(carry))
    expected = jax.tree.map(np.array, jax.tree.map(jnp.copy, carry))
    with Store(tmp_path) as store:
        store.save(1, carry, {})
        pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(carry)]
        updated = jax.block_until_ready(update(carry))
        assert all(x.is_deleted() for x in jax.tree.leaves(carry))
        assert [x.unsafe_buffer_pointer() for x in jax.tree.leaves(updated)] == pointers
        gate.set()
        store.wait()
        restored = store.restore(jax.eval_shape(lambda: updated)).tree
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, restored), expected)


CHANGES = [
    ({"w": np.zeros(4)}, "another shape"),
    ({"w": np.zeros(3, np.float32)}, "another dtype"),
    ({"w": jnp.zeros(3)}, "another home"),
    ({"v": np.zeros(3)}, "another path"),
    ({"w": 0.0}, "a Python number"),
    ({"w": -0.0}, "its sign"),
    ({"w": 0}, "its type"),
    ({"w": jax.random.key(0)}, "a key"),
    ({"w": jax.random.key(0, impl="rbg")}, "its kind"),
]


def test_a_plan_is_made_anew_when_anything_changes():
    planner = Planner()
    for changed, what in CHANGES:
        before, _ = planner.plan({"w": np.zeros(3)})
        after, _ = planner.plan(changed)
        assert after is not before, what
        assert planner.plan(changed)[0] is after, what
        assert after == Planner().plan(changed)[0], what
    number, _ = planner.plan({"w": 0.0})
    assert planner.plan({"w": -0.0})[0] is not number
