"""The algebra of cadences: its laws, an oracle that counts, and the words it refuses with."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import odyssey_jax as ody

UNITS = ("epochs", "steps", "examples", "seconds")
numbers = st.integers(1, 12)
units = st.sampled_from(UNITS)


@st.composite
def atoms(draw):
    make = draw(st.sampled_from([ody.every, ody.callbacks.at, ody.after, ody.until]))
    several = st.lists(numbers, max_size=4) if make is ody.callbacks.at else numbers
    return make(**{draw(units): draw(several)})


conditions = st.recursive(
    atoms(),
    lambda parts: st.one_of(
        parts.map(lambda a: ~a),
        st.tuples(parts, parts).map(lambda ab: ab[0] & ab[1]),
        st.tuples(parts, parts).map(lambda ab: ab[0] | ab[1]),
    ),
    max_leaves=6,
)
amounts = st.tuples(*[st.integers(0, 40)] * len(UNITS))


@st.composite
def looks(draw):
    before, more = draw(amounts), draw(amounts)
    return ody.callbacks.Moment(*before), ody.callbacks.Moment(
        *(a + b for a, b in zip(before, more, strict=True))
    )


def oracle(condition, before, now):
    """Counts the marks between the looks, one by one."""
    kind = type(condition).__name__
    if kind in ("And", "Or"):
        return {"And": all, "Or": any}[kind](oracle(c, before, now) for c in condition.conditions)
    if kind == "Not":
        return not oracle(condition.conditions[0], before, now)
    a, b = (getattr(moment, condition.unit) for moment in (before, now))
    if kind == "After":
        return b >= condition.number
    is_mark = {"Every": lambda n: n % condition.number == 0, "At": lambda n: n in condition.number}
    return any(is_mark[kind](n) for n in range(a + 1, b + 1))


@given(conditions, looks())
def test_equals_the_oracle(condition, two):
    assert condition.holds(*two) is oracle(condition, *two)


@given(conditions, conditions, conditions, looks())
def test_is_a_boolean_algebra(a, b, c, two):
    same = [
        (~(a & b), ~a | ~b),
        (~(a | b), ~a & ~b),
        (a & (b | c), a & b | a & c),
        (a | (b & c), (a | b) & (a | c)),
        (a & b, b & a),
        (a | (a & b), a),
    ]
    for left, right in same:
        assert left.holds(*two) == right.holds(*two)
    assert not (a & ~a).holds(*two)
    assert (a | ~a).holds(*two)
    assert ~~a == a
    assert (a & b) & c == a & (b & c)
    assert (a | b) | c == a | (b | c)


@given(conditions)
def test_is_a_hashable_value_with_a_representation(condition):
    again = eval(repr(condition), vars(ody.callbacks))
    assert again == condition
    assert hash(again) == hash(condition)


@given(conditions, st.integers(0, 40))
def test_nothing_changes_before_the_next_mark(condition, done):
    """Looking at the marks alone, one sees all that one sees who looks all the time."""
    for unit in condition.units:
        mark = condition.next_mark(unit, done)
        end = done + 30 if mark is None else mark
        assert end > done
        others = {u: 5 for u in UNITS if u != unit}
        way = [ody.callbacks.Moment(**others, **{unit: n}) for n in range(done, end)]
        assert len({condition.holds(*two) for two in itertools.pairwise(way)}) <= 1
    assert condition.next_mark("epochs", done) is None or "epochs" in condition.units


@given(conditions, looks())
def test_traced_it_is_the_same(condition, two):
    arrays = jax.tree.map(jnp.int32, two)
    assert bool(condition.holds(*arrays)) == condition.holds(*two)


def test_under_jit_and_vmap():
    condition = ody.every(epochs=3) & ~ody.callbacks.at(epochs=6) | ody.until(epochs=2)
    due = lambda n: jnp.asarray(
        condition.holds(ody.callbacks.Moment(n - 1), ody.callbacks.Moment(n))
    )
    want = [due(n).item() for n in range(1, 13)]
    assert [n for n, x in enumerate(want, 1) if x] == [1, 3, 9, 12]
    assert jax.jit(jax.vmap(due))(jnp.arange(1, 13)).tolist() == want


def test_one_who_looks_seldom_sees_several_marks_as_one():
    condition = ody.every(steps=10)
    seen = [
        condition.holds(ody.callbacks.Moment(steps=a), ody.callbacks.Moment(steps=a + 25))
        for a in range(0, 75, 25)
    ]
    assert seen == [True, True, True]
    assert not condition.holds(ody.callbacks.Moment(steps=1), ody.callbacks.Moment(steps=9))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ody.every(), ValueError, "every takes exactly one of epochs, steps, examples, s"),
        (
            lambda: ody.callbacks.at(epochs=1, steps=2),
            ValueError,
            "got epochs=1, steps=2. Join several",
        ),
        (lambda: ody.every(epochs=0), ValueError, r"every\(epochs=...\) must be an integer in"),
        (lambda: ody.every(steps=2.5), ValueError, r"every\(steps=...\) .*got 2.5"),
        (lambda: ody.after(examples=True), ValueError, r"after\(examples=...\) .*got True"),
        (
            lambda: ody.callbacks.at(steps=[3, 0]),
            ValueError,
            r"at\(steps=...\) must be .*\[1, .*got 0",
        ),
        (lambda: ody.every(seconds=0), ValueError, "must be finite and greater than 0, got 0"),
        (lambda: ody.every(seconds=float("inf")), ValueError, "greater than 0, got inf"),
        (lambda: ody.every(epochs=1) and ody.every(epochs=2), TypeError, "join with &, | and ~"),
        (lambda: ody.every(epochs=1) | 3, TypeError, "unsupported operand"),
        (
            lambda: ody.every(seconds=5).holds(ody.callbacks.Moment(1), ody.callbacks.Moment(2)),
            ValueError,
            r"every\(seconds=5\) can't be decided where the seconds are not known",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, message):
    with pytest.raises(error, match=message.replace("|", r"\|")):
        call()


def event(epoch, loss=0.0, point=ody.Point.EPOCH_END):
    state = ody.TrainState({"w": jnp.full(2, epoch, jnp.float32)})
    clock = ody.Clock(jnp.int32(7 * epoch + 7), jnp.int32(epoch))
    return ody.Event({"loss": jnp.float32(loss)}, clock, state, point, 8)


def test_on_lets_a_callback_act_in_some_epochs_only():
    stopping = ody.callbacks.on(
        ody.every(epochs=2), ody.early_stopping("loss", 2, restore_best=True)
    )
    state, update = stopping.init(event(0)), jax.jit(stopping.update)
    losses = [9.0, 5.0, 1.0, 6.0, 1.0, 6.0]  # it sees 5, 6, 6
    stops = []
    for epoch, loss in enumerate(losses):
        state, signal = update(state, event(epoch, loss))
        stops.append(int(signal.stop))
    assert [epoch for epoch, stop in enumerate(stops) if stop] == [5]
    _, signal = update(state, event(6, point=ody.Point.TRAIN_END))  # at the end it always acts
    assert signal.state.params["w"].tolist() == [1, 1]


def test_on_passes_the_train_state_on():
    def add_one(state, event):
        params = jax.tree.map(lambda x: x + 1, event.state.params)
        return state, ody.Signal.none()._replace(state=event.state._replace(params=params))

    adding = ody.callbacks.on(
        ody.callbacks.at(epochs=[2]), ody.callback(lambda event: None, add_one)
    )
    both = ody.chain(adding, ody.track_best("loss"))
    got = [both.update(both.init(event(e)), event(e))[1].state.params["w"][0] for e in range(3)]
    assert got == [0, 2, 2]


def test_on_adds_the_columns_that_the_callback_adds():
    guard = ody.roll_back("loss", factor=1)
    columns = guard.report(guard.init(event(0)))
    wrapped = ody.callbacks.on(ody.every(epochs=2), guard)
    assert wrapped.report(wrapped.init(event(0))).keys() == columns.keys()
    assert ody.callbacks.on(ody.every(epochs=2), ody.callbacks.log(3)).report(None) == {}


@pytest.mark.parametrize(
    ("when", "callback", "error", "message"),
    [
        (5, ody.callbacks.log(3), TypeError, r"a condition such as every\(epochs=5\), got 5"),
        (ody.every(epochs=5), 3, TypeError, "3 is no callback"),
        (
            ody.every(steps=5),
            ody.callbacks.log(3),
            ValueError,
            "ends of epochs, where steps don't count",
        ),
        (ody.every(epochs=5), ody.chain(ody.checkpoint()), ValueError, "its own condition"),
    ],
)
def test_on_refuses(when, callback, error, message):
    with pytest.raises(error, match=message):
        ody.callbacks.on(when, callback)
