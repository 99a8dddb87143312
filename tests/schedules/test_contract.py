"""The points of the contract, over the table of schedules (see conftest.py).

What a formula decides is held for every row: precision, ends, phases of no length, gradients. What
the class decides, or `Schedule` alone, is held for one row of each class.
"""

from __future__ import annotations

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
from tests.schedules.cases.case import LAST, same_shape
from tests.schedules.conftest import CASES, KINDS, OF_SEVERAL_PROGRAMS, Table, interesting_steps

HORIZON = 100
STEPS = np.unique([*range(12), 24, 25, 26, 49, 50, 51, 98, 99, 100, 101, 150, 199, 200, 201])

_EVAL = {name: getattr(ody_s, name) for name in dir(ody_s)}

one_by_one = pytest.mark.usefixtures("op_by_op")


def at_steps(table, case, total: int, steps: list[int]) -> np.ndarray:
    values = dict(zip(interesting_steps(total).tolist(), table.whole(case, total), strict=True))
    return np.array([values[t] for t in steps])


@pytest.mark.parametrize("total", [10, 1_000, 10**6, 2**24 + 1, LAST])
def test_precision_against_float64(table, case, total):
    got = table.whole(case, total).astype(np.float64)
    want = np.asarray(case.oracle(interesting_steps(total).astype(np.float64), total), np.float64)
    normal = np.abs(want) > 1e-36  # below it, float32 has fewer digits than it promises
    np.testing.assert_allclose(got[normal], want[normal], rtol=1e-6)
    np.testing.assert_allclose(got[~normal], want[~normal], atol=1e-36)


def test_exact_ends(table, case):
    for total in (1, 4, 1_000, LAST):
        if case.ends is None:
            continue
        start, end = case.ends(total)
        if total == 1 and "end_on_last_step" in case.name:
            start = end
        got = at_steps(table, case, total, [0, total, min(2 * total, LAST), LAST])
        np.testing.assert_array_equal(got, np.array([start, end, end, end], np.float32))


def test_zero_length_phase_is_skipped(table, case):
    got = at_steps(table, case, 0, [0, 1, 2, LAST])
    assert np.all(np.isfinite(got))
    if case.ends is not None:
        np.testing.assert_array_equal(got, np.full(4, case.ends(0)[1], np.float32))


def test_a_step_may_be_a_float(table, case):
    got, want = (table.short(case, HORIZON, dtype) for dtype in ("float32", "int32"))
    for values in (got, want):
        assert values.dtype == jnp.float32
        assert not values.weak_type
    np.testing.assert_allclose(got, want, rtol=3e-7)


def test_one_program_whatever_the_numbers():
    table = Table()  # one of its own: compiled programs are dropped where memory is short
    for total in (0, 1, 10, 1_000, LAST):
        table.trace(total, "int32")
    assert table.traces == 1
    table.trace(HORIZON, "float32")
    assert table.traces == 2
    # There are no others of which the structure depends on a number.
    structures = {
        case.name: {jax.tree.structure(case.build(n)) for n in (0, 1, HORIZON)} for case in CASES
    }
    assert {name for name, kinds in structures.items() if len(kinds) > 1} == OF_SEVERAL_PROGRAMS


# What is done with a step before the formula sees it is the same for all.
@one_by_one
def test_step_dtypes(sample):
    steps, schedule = np.arange(121), sample.build(HORIZON)
    want = schedule(steps)
    whole = ["int8", "int16", "int32", "uint8", "uint16", "uint32"]
    for dtype in (*whole, "float16", "bfloat16", "float32"):
        got = schedule(jnp.asarray(steps).astype(dtype))
        assert got.dtype == jnp.float32
        assert not got.weak_type
        np.testing.assert_allclose(got, want, rtol=3e-7, err_msg=dtype)


@one_by_one
def test_steps_out_of_range(sample):
    schedule = sample.build(HORIZON)
    first, last = schedule(0), schedule(LAST)
    for step in (-1, -(2**31), -(10**30), -0.5, -np.inf, np.int8(-128), np.int64(-(2**40))):
        assert schedule(step) == first
    for step in (2**31, 2**32 + 5, 10**30, 1e30, np.inf, np.uint32(2**32 - 1), np.uint64(2**63)):
        assert schedule(step) == last
    for step, want in ((2**31, last), (2**32 - 1, last), (3, schedule(3))):
        assert schedule(jnp.uint32(step)) == want


def test_eager_jit_vmap_and_scan_agree(table, sample):
    schedule = sample.build(HORIZON)

    @jax.jit
    def three_ways(steps: jax.Array) -> tuple[jax.Array, ...]:
        scanned = jax.lax.scan(lambda c, t: (c, schedule(t)), 0, steps)[1]
        return schedule(steps), jax.vmap(schedule)(steps), scanned

    steps = same_shape(np.arange(250))
    eager = np.asarray(schedule(steps))
    for got in (*three_ways(jnp.asarray(steps)), table.short(sample, HORIZON)):
        # XLA may fuse a multiplication and an addition in one of them and not in another.
        np.testing.assert_allclose(got, eager, rtol=3e-7)


def test_result_has_the_shape_of_the_step(table, sample):
    schedule = sample.build(HORIZON)
    values = [schedule(t) for t in (0, 7, 23)]
    assert {(x.shape, x.dtype, x.weak_type) for x in values} == {((), np.dtype("float32"), False)}
    np.testing.assert_allclose(
        values, table.short(sample, HORIZON)[np.array([0, 7, 23])], rtol=3e-7
    )
    shape = jax.eval_shape(schedule, jax.ShapeDtypeStruct((0, 3, 2), jnp.int16))
    assert (shape.shape, shape.dtype) == ((0, 3, 2), jnp.float32)


@one_by_one
def test_x64_changes_nothing(sample):
    schedule, short = sample.build(HORIZON), same_shape(np.arange(250))
    want = np.asarray(schedule(short))
    with jax.enable_x64(True):
        steps = jnp.asarray(short), jnp.asarray(short, jnp.float64)
        assert [x.dtype for x in steps] == [jnp.int64, jnp.float64]
        # In an argument of jit, its Python numbers are of 64 bits.
        argument = jax.tree.map(jnp.asarray, schedule)
        got = {"int64": argument(steps[0]), "float64": argument(steps[1]), "eager": schedule(short)}
        for how, values in got.items():
            assert values.dtype == jnp.float32
            np.testing.assert_allclose(values, want, rtol=3e-7, err_msg=how)


BATCH = 400


def flat(members: list[Schedule], steps: list[np.ndarray]) -> tuple[Schedule, jax.Array]:
    """Each schedule at each of its steps, as a batch, always of the same size."""
    repeated = [s for s, each in zip(members, steps, strict=True) for _ in each]
    assert len(repeated) <= BATCH
    batch = jax.tree.map(lambda *column: jnp.asarray(np.resize(column, BATCH)), *repeated)
    return batch, jnp.asarray(np.resize(np.concatenate(steps), BATCH))


def parts(values: jax.Array, steps: list[np.ndarray]) -> list[np.ndarray]:
    """Of a flat batch, the values of each schedule."""
    ends = np.cumsum([len(each) for each in steps])
    return np.split(np.asarray(values)[: ends[-1]], ends[:-1])


value_and_slopes = jax.vmap(jax.value_and_grad(lambda schedule, step: schedule(step)))


def real(schedule: Schedule) -> Schedule:
    return jax.tree.map(np.float32, schedule)


@one_by_one
def test_gradients_are_finite_everywhere_and_right(case):
    """Against differences, each leaf; where the curve jumps in a leaf, the derivative is 0."""
    schedule = real(case.build(HORIZON))
    paths, treedef = jax.tree_util.tree_flatten_with_path(schedule)
    leaves = [leaf for _, leaf in paths]
    widths = [np.float32(2e-3 * (abs(float(leaf)) or 1.0)) for leaf in leaves]
    moved = [
        treedef.unflatten([*leaves[:i], leaves[i] + d, *leaves[i + 1 :]])
        for i, h in enumerate(widths)
        for d in (h, -h)
    ]
    away = np.array([3, 13, 30, 60, 77], np.int32)  # from the joints
    steps = [away] * (1 + len(moved))
    short = {total: real(case.build(total)) for total in (0, 1)}
    alike = [s for s in short.values() if jax.tree.structure(s) == treedef]
    everywhere = [STEPS.astype(np.int32)] * (1 + len(alike))
    batch = flat([schedule, *moved, schedule, *alike], [*steps, *everywhere])
    value, slopes = value_and_slopes(*batch)
    values = parts(value, steps)
    for i, ((path, _), h, slope) in enumerate(
        zip(paths, widths, jax.tree.leaves(slopes), strict=True)
    ):
        assert np.all(np.isfinite(slope))
        slope = slope[: len(away)]
        if {str(key).lstrip(".") for key in path} & set(case.jumps):
            np.testing.assert_array_equal(slope, 0)
            continue
        high, low = values[1 + 2 * i], values[2 + 2 * i]
        noise = 4e-7 * max(abs(high).max(), abs(low).max()) / h
        np.testing.assert_allclose(slope, (high - low) / (2 * h), rtol=0.02, atol=noise)
    for other in short.values():
        if jax.tree.structure(other) != treedef:
            slopes = value_and_slopes(*flat([other], [STEPS.astype(np.int32)]))[1]
            assert all(np.all(np.isfinite(slope)) for slope in jax.tree.leaves(slopes))


@one_by_one
def test_gradient_of_a_fractional_step(case):
    steps = jnp.asarray(np.resize(np.arange(0, 120, 0.5, dtype=np.float32), BATCH))
    slope = jax.vmap(jax.grad(case.build(HORIZON)))(steps)
    assert np.all(np.isfinite(slope))
    if case.name == "linear_warmup":
        np.testing.assert_allclose(slope[1:199], 0.3 / HORIZON, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["cosine_decay", "cyclic", "cosine_restarts doubling", "polynomial", "join of joins"]
)
def test_compiled_gradients_are_those_op_by_op(name):
    schedule = real(next(case for case in CASES if case.name == name).build(HORIZON))
    batch = flat([schedule], [STEPS.astype(np.int32)])
    got = jax.jit(value_and_slopes)(*batch)
    with jax.disable_jit():
        want = value_and_slopes(*batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)


@one_by_one
def test_vmap_over_every_leaf(sample):
    """Member i of the batch differs in leaf i, and equals the schedule that differs in it."""
    leaves, treedef = jax.tree.flatten(sample.build(HORIZON))
    members = [
        [*leaves[:i], leaf + 3 if isinstance(leaf, int) else leaf * 0.5, *leaves[i + 1 :]]
        for i, leaf in enumerate(leaves)
    ]
    if not members:
        return  # a plain function: it has no leaves
    schedules = [treedef.unflatten(member) for member in members]
    steps = np.arange(0, 250, 11)
    batch = flat(schedules, [steps] * len(schedules))
    got = parts(jax.vmap(lambda s, t: s(t))(*batch), [steps] * len(schedules))
    for values, schedule in zip(got, schedules, strict=True):
        # A rate in an array is a float32: 0.9 in float32, to the 250th power.
        np.testing.assert_allclose(values, schedule(same_shape(steps))[: len(steps)], rtol=1e-5)


def test_any_two_meet_in_switch():
    branches = [case.build(HORIZON) for case in CASES]
    shape = jax.eval_shape(lambda i: jax.lax.switch(i, branches, jnp.int32(30)), 0)
    assert (shape.shape, shape.dtype, shape.weak_type) == ((), jnp.float32, False)
    few = [branches[i] for i in (0, 5, 30, -1)]
    pick = jax.jit(lambda i: jax.lax.switch(i, few, jnp.int32(30)))
    for i, branch in enumerate(few):
        np.testing.assert_allclose(pick(i), branch(30), rtol=3e-7)


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
    if case.name not in ("from_callable", "from_python"):  # a lambda does not pickle
        assert pickle.loads(pickle.dumps(schedule)) == schedule


@one_by_one
def test_a_schedule_pickles_after_it_was_called(sample):
    schedule = sample.build(HORIZON)
    before = schedule(3)
    if sample.name not in ("from_callable", "from_python"):
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


def test_no_two_kinds_have_one_structure():
    # What jax.jit goes by. With register_dataclass, all kinds of as many fields are equal.
    shapes = {type(s): jax.tree.structure(s) for s in (case.build(HORIZON) for case in CASES)}
    assert len(shapes) == len(KINDS)
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


def test_every_public_schedule_is_in_the_table():
    built = {name for case in CASES for name in case.name.split()}
    public = {name for name in dir(ody_s) if not name.startswith("_") and builds_a_schedule(name)}
    assert {"constant", "warmup_cosine", "join"} <= public
    assert public <= built | {"join"}
    assert "join of one kind" in {case.name for case in CASES}
