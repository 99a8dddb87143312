"""The points of the contract, each over the whole table of schedules (see conftest.py)."""

from __future__ import annotations

import functools
import inspect
import json
import pickle
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax.schedules as ody_s
from odyssey_jax.schedules import Schedule

HORIZON = 100
LAST = 2**31 - 1
STEPS = np.unique([*range(12), 24, 25, 26, 49, 50, 51, 98, 99, 100, 101, 150, 199, 200, 201])

_EVAL = {name: getattr(ody_s, name) for name in dir(ody_s)}


# For the largest programs of the contract, of which only the mathematics or the dtypes are asked:
# LLVM, at work for most of the suite's time, may do little.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@jax.jit
def curve(schedule: Schedule, steps: jax.Array) -> jax.Array:
    """One program, whatever the numbers of the schedule."""
    return schedule(steps)


@quick_jit
def curves(schedule: Schedule, several: tuple[jax.Array, ...]) -> list[jax.Array]:
    return [schedule(steps) for steps in several]


def interesting_steps(total: int) -> np.ndarray:
    """Both tails, the joints, and a sample in between."""
    rng = np.random.default_rng(total)
    tail = np.unique(np.geomspace(1, max(total // 2, 2), 60).astype(np.int64))
    joints = [total * k // 64 + d for k in range(65) for d in (-1, 0, 1)]
    steps = np.concatenate([tail, total - tail, joints, rng.integers(0, total + 1, 400), [LAST]])
    steps = np.unique(np.clip(steps, 0, LAST))
    return same_shape(steps)


def same_shape(steps: np.ndarray) -> np.ndarray:
    """Repeat steps to one common length: the tests of a schedule then share its program."""
    assert len(steps) <= 1000
    return np.resize(np.asarray(steps), 1000)


@pytest.mark.parametrize("total", [10, 1_000, 10**6, 2**24 + 1, LAST])
def test_precision_against_float64(case, total):
    steps = interesting_steps(total)
    got = np.asarray(case.build(total)(steps.astype(np.int32)), np.float64)
    want = np.asarray(case.oracle(steps.astype(np.float64), total), np.float64)
    normal = np.abs(want) > 1e-36  # below it, float32 has fewer digits than it promises
    np.testing.assert_allclose(got[normal], want[normal], rtol=1e-6)
    np.testing.assert_allclose(got[~normal], want[~normal], atol=1e-36)


def test_exact_ends(case):
    for total in (1, 4, 1_000, LAST):
        if case.ends is None:
            continue
        start, end = case.ends(total)
        if total == 1 and "end_on_last_step" in case.name:
            start = end
        steps = same_shape(np.array([0, total, min(2 * total, LAST), LAST]))
        got = np.asarray(case.build(total)(steps))[:4]
        np.testing.assert_array_equal(got, np.array([start, end, end, end], np.float32))


def test_zero_length_phase_is_skipped(case):
    got = np.asarray(case.build(0)(same_shape(np.array([0, 1, 2, LAST]))))[:4]
    assert np.all(np.isfinite(got))
    if case.ends is not None:
        np.testing.assert_array_equal(got, np.full(4, case.ends(0)[1], np.float32))


@pytest.mark.parametrize(
    "dtype",
    ["int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "bfloat16", "float32"],
)
def test_step_dtypes(case, dtype):
    steps = same_shape(np.arange(121))
    schedule = case.build(HORIZON)
    got = schedule(jnp.asarray(steps).astype(dtype))
    assert got.dtype == jnp.float32
    assert not got.weak_type
    np.testing.assert_allclose(got, schedule(steps), rtol=3e-7)


def test_steps_out_of_range(case):
    schedule = case.build(HORIZON)
    first, last = schedule(0), schedule(LAST)
    for step in (-1, -(2**31), -(10**30), -0.5, -np.inf, np.int8(-128), np.int64(-(2**40))):
        assert schedule(step) == first
    for step in (2**31, 2**32 + 5, 10**30, 1e30, np.inf, np.uint32(2**32 - 1), np.uint64(2**63)):
        assert schedule(step) == last
    for step, want in ((2**31, last), (2**32 - 1, last), (3, schedule(3))):
        assert schedule(jnp.uint32(step)) == want


def test_result_has_the_shape_of_the_step(case):
    schedule = case.build(HORIZON)
    flat = np.asarray(schedule(same_shape(np.arange(120))))
    assert schedule(7).shape == ()
    assert not schedule(7).weak_type
    np.testing.assert_allclose([schedule(t) for t in (0, 7, 23)], flat[[0, 7, 23]], rtol=3e-7)
    shape = jax.eval_shape(schedule, jax.ShapeDtypeStruct((0, 3, 2), jnp.int16))
    assert (shape.shape, shape.dtype) == ((0, 3, 2), jnp.float32)


def test_eager_jit_vmap_and_scan_agree(case):
    schedule = case.build(HORIZON)

    @jax.jit
    def three_ways(steps: jax.Array) -> tuple[jax.Array, ...]:
        scanned = jax.lax.scan(lambda c, t: (c, schedule(t)), 0, steps)[1]
        return schedule(steps), jax.vmap(schedule)(steps), scanned

    steps = same_shape(np.arange(250))
    eager = np.asarray(schedule(steps))
    for got in three_ways(jnp.asarray(steps)):
        # XLA may fuse a multiplication and an addition in one of them and not in another.
        np.testing.assert_allclose(got, eager, rtol=3e-7)


def test_x64_changes_nothing(case):
    schedule = case.build(HORIZON)
    want = np.asarray(schedule(same_shape(STEPS)))[: len(STEPS)]
    with jax.enable_x64(True):
        steps = jnp.asarray(STEPS), jnp.asarray(STEPS, jnp.float64)
        assert [x.dtype for x in steps] == [jnp.int64, jnp.float64]
        # As an argument, its Python floats are float64 in the trace.
        got = curves(schedule, steps)
        for how, values in zip(
            ("int64", "float64", "eager"), (*got, schedule(steps[0])), strict=True
        ):
            assert values.dtype == jnp.float32
            np.testing.assert_allclose(values, want, rtol=3e-7, err_msg=how)


def test_an_argument_of_jit_keeps_all_digits(case):
    schedule, steps = case.build(HORIZON), same_shape(STEPS)
    np.testing.assert_allclose(curve(schedule.precise(), steps), schedule(steps), rtol=3e-7)


def leaf_grads(schedule: Schedule, steps: np.ndarray) -> list[np.ndarray]:
    """d value / d leaf for each step, every leaf taken as a real number."""
    real = jax.tree.map(jnp.float32, schedule)
    return jax.tree.leaves(_jacobian(real, jnp.asarray(steps)))


_jacobian = quick_jit(jax.vmap(jax.grad(lambda s, t: s(t)), in_axes=(None, 0)))
_slopes = quick_jit(jax.vmap(jax.grad(lambda s, t: s(t), argnums=1), in_axes=(None, 0)))


@pytest.mark.parametrize("total", [0, 1, 100])
def test_gradients_are_finite_everywhere(case, total):
    for grad in leaf_grads(case.build(total), STEPS):
        assert np.all(np.isfinite(grad))


def test_gradients_are_right(case):
    """Against differences, each leaf; where the curve jumps in a leaf, the derivative is 0."""
    schedule = jax.tree.map(jnp.float32, case.build(HORIZON))
    paths, treedef = jax.tree_util.tree_flatten_with_path(schedule)
    leaves = [leaf for _, leaf in paths]
    steps = np.resize([3, 13, 30, 60, 77], STEPS.shape)  # away from the joints
    grads = leaf_grads(schedule, steps)
    for i, (path, leaf) in enumerate(paths):
        if {str(key).lstrip(".") for key in path} & set(case.jumps):
            np.testing.assert_array_equal(grads[i], 0)
            continue
        h = 2e-3 * (abs(float(leaf)) or 1.0)
        moved = [treedef.unflatten([*leaves[:i], leaf + d, *leaves[i + 1 :]]) for d in (h, -h)]
        high, low = (np.asarray(curves(s, (jnp.asarray(steps),))[0]) for s in moved)
        noise = 4e-7 * max(abs(high).max(), abs(low).max()) / h
        np.testing.assert_allclose(grads[i], (high - low) / (2 * h), rtol=0.02, atol=noise)


def test_gradient_of_a_fractional_step(case):
    slope = _slopes(case.build(HORIZON), jnp.arange(0, 120, 0.5))
    assert np.all(np.isfinite(slope))
    if case.name == "linear_warmup":
        np.testing.assert_allclose(slope[1:199], 0.3 / HORIZON, rtol=1e-6)


def test_vmap_over_every_leaf(case):
    """Member i of the batch differs in leaf i, and equals the schedule that differs in it."""
    leaves, treedef = jax.tree.flatten(case.build(HORIZON))
    members = [
        [*leaves[:i], leaf + 3 if isinstance(leaf, int) else leaf * 0.5, *leaves[i + 1 :]]
        for i, leaf in enumerate(leaves)
    ]
    if not members:
        return  # a plain function: it has no leaves
    batch = treedef.unflatten([jnp.asarray(column) for column in zip(*members, strict=True)])
    steps = same_shape(np.arange(250))
    got = jax.vmap(lambda s: s(steps))(batch)
    for row, member in zip(got, members, strict=True):
        one = treedef.unflatten(member)(steps)
        # A rate in an array is a float32: 0.9 in float32, to the 250th power.
        np.testing.assert_allclose(row, one, rtol=1e-5)


def test_one_trace_for_a_hundred_settings(case):
    traces = 0

    @jax.jit
    def run(schedule: Schedule, step: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return schedule(step)

    leaves, treedef = jax.tree.flatten(case.build(HORIZON))
    for k in range(100):
        new = [leaf + k if isinstance(leaf, int) else leaf * (1 - k / 200) for leaf in leaves]
        # A call traces and then compiles; here only the traces are counted.
        run.trace(treedef.unflatten(new), jnp.int32(k))
    assert traces == 1


def test_any_two_meet_in_switch(all_cases):
    branches = [case.build(HORIZON) for case in all_cases]
    pick = quick_jit(lambda i: jax.lax.switch(i, branches, jnp.int32(30)))
    for i in (0, 5, len(branches) - 1):
        got = pick(i)
        np.testing.assert_allclose(got, branches[i](30), rtol=3e-7)


def test_switch_over_traced_schedules():
    def run(peak, i):
        branches = [ody_s.linear_warmup(peak, 10), ody_s.cosine_decay(peak, 10)]
        return jax.lax.switch(i, branches, jnp.int32(4))

    for i, want in enumerate((0.4, 0.5 * (1 + np.cos(0.4 * np.pi)))):
        np.testing.assert_allclose(jax.jit(run)(1.0, i), want, rtol=1e-6)


def test_value_equality_hash_and_pickle(case):
    schedule, same, other = case.build(HORIZON), case.build(HORIZON), case.build(HORIZON + 20)
    assert schedule == same
    assert hash(schedule) == hash(same)
    as_arrays = jax.tree.map(jnp.asarray, schedule)
    assert hash(as_arrays) == hash(schedule)
    assert schedule != 0.3
    if case.name != "constant" and jax.tree.leaves(schedule) != jax.tree.leaves(other):
        assert schedule != other
    before = schedule(3)
    if case.name in ("from_callable", "from_python"):
        return  # a lambda does not pickle
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule
    assert again(3) == before


def test_repr_and_json_build_it_again(case):
    schedule = case.build(HORIZON)
    if case.name in ("from_callable", "from_python"):
        assert "lambda" in repr(schedule)
        with pytest.raises(ValueError, match="function must be a callable"):
            Schedule.from_json(schedule.to_json())
        return
    assert eval(repr(schedule), _EVAL) == schedule
    text = schedule.to_json()
    assert Schedule.from_json(text) == schedule
    assert Schedule.from_dict(json.loads(text)["schedule"]) == schedule
    precise = schedule.precise()
    assert eval(repr(precise), _EVAL).precise() == precise
    assert Schedule.from_json(precise.to_json()).precise() == precise


def test_no_two_kinds_have_one_structure(all_cases):
    # What jax.jit goes by. With register_dataclass, all kinds of as many fields are equal.
    shapes = {type(s): jax.tree.structure(s) for s in (case.build(HORIZON) for case in all_cases)}
    for kind, shape in shapes.items():
        assert [k for k, other in shapes.items() if other == shape] == [kind]


def test_it_is_frozen_and_survives_flattening(case):
    schedule = case.build(HORIZON)
    with pytest.raises(AttributeError):
        schedule.init_value = 3.0
    leaves, treedef = jax.tree.flatten(schedule)
    assert treedef.unflatten(leaves) == schedule
    # JAX flattens with whatever it likes in the leaves: nothing is checked then.
    treedef.unflatten([object()] * len(leaves))
    jax.tree.map(lambda _: None, schedule)


def builds_a_schedule(name: str) -> bool:
    value = getattr(ody_s, name)
    returned = typing.get_type_hints(value).get("return") if inspect.isfunction(value) else None
    return inspect.isclass(returned) and issubclass(returned, Schedule)


def test_every_public_schedule_is_in_the_table(all_cases):
    built = {name for case in all_cases for name in case.name.split()}
    public = {name for name in dir(ody_s) if not name.startswith("_") and builds_a_schedule(name)}
    assert {"constant", "warmup_cosine", "join"} <= public
    assert public <= built | {"join"}
    assert "join of one kind" in {case.name for case in all_cases}
