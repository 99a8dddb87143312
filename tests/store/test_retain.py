"""Retention without a disk: tables, and a small oracle over every history."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odyssey_jax.store import retain
from odyssey_jax.store._retain import ranked

NAN = math.nan
HISTORY = dict(enumerate([0.5, 0.1, NAN, 0.4, 0.3, NAN, 0.2]))


@pytest.mark.parametrize(
    ("values", "last", "best", "mode", "kept"),
    [
        (HISTORY, 1, 2, "min", {1, 6}),
        (HISTORY, 1, 2, "max", {0, 3, 6}),
        (HISTORY, 3, 1, "min", {1, 4, 5, 6}),
        (HISTORY, None, 0, "min", set(range(7))),
        (HISTORY, 1, 0, "min", {6}),
        (HISTORY, 1, 99, "min", {0, 1, 3, 4, 6}),
        ({}, 1, 1, "min", set()),
        ({3: None, 9: None, 4: None}, 2, 1, "min", {4, 9}),
        ({1: NAN, 2: NAN}, 1, 1, "max", {2}),
        ({1: 0.5, 2: 0.5, 3: 0.5}, 1, 1, "min", {1, 3}),
        ({1: 0.5, 2: 0.5, 3: 0.5}, 1, 1, "max", {1, 3}),
        ({1: math.inf, 2: -math.inf, 3: 0.0}, 1, 1, "min", {2, 3}),
        ({1: math.inf, 2: -math.inf, 3: 0.0}, 1, 1, "max", {1, 3}),
    ],
)
def test_table(values, last, best, mode, kept):
    assert retain(values, last, best, mode) == kept


@pytest.mark.parametrize(
    ("every", "pinned", "kept"),
    [
        (None, [], {6}),
        (3, [], {0, 3, 6}),
        (4, [5], {0, 4, 5, 6}),
        (99, [1, 2, 77], {0, 1, 2, 6}),  # a pin of a step that is not there keeps nothing
        (1, [], set(range(7))),
    ],
)
def test_every_nth_and_pinned(every, pinned, kept):
    assert retain(HISTORY, keep_every=every, pinned=pinned) == kept
    assert retain(HISTORY, None, keep_every=every, pinned=pinned) == set(range(7))
    assert retain(HISTORY, 1, 2, "min", every, pinned) == kept | {1, 6}


def oracle_best(values, k, mode):
    left = {s: v for s, v in values.items() if v is not None and v == v}
    chosen = set()
    while left and len(chosen) < k:
        top = min(left.values()) if mode == "min" else max(left.values())
        chosen.add(min(s for s, v in left.items() if v == top))
        left = {s: v for s, v in left.items() if s not in chosen}
    return chosen


histories = st.dictionaries(
    st.integers(0, 30),
    st.none() | st.sampled_from([0.0, -0.0, 1.0, 2.0]) | st.floats(allow_nan=True),
    max_size=12,
)


policies = st.tuples(
    st.none() | st.integers(1, 6),
    st.integers(0, 6),
    st.sampled_from(["min", "max"]),
    st.none() | st.integers(1, 9),
    st.sets(st.integers(0, 30), max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(histories, policies)
def test_equals_the_oracle(values, policy):
    last, best, mode, every, pinned = policy
    recent = set(sorted(values)[-last:]) if last else set(values)
    for_good = {step for step in values if step in pinned or (every and step % every == 0)}
    kept = retain(values, *policy)
    assert kept == recent | oracle_best(values, best, mode) | for_good
    assert not values or max(values) in kept


@settings(max_examples=60, deadline=None)
@given(histories, policies)
def test_deleting_as_one_goes_keeps_the_same(values, policy):
    """What is deleted after one save would not have been wanted after a later one."""
    kept = {}
    for step in sorted(values):
        kept[step] = values[step]
        kept = {s: kept[s] for s in retain(kept, *policy)}
    assert set(kept) == retain(values, *policy)


@settings(max_examples=60, deadline=None)
@given(histories, st.sampled_from(["min", "max"]))
def test_nothing_without_a_value_is_ranked(values, mode):
    assert set(ranked(values, mode)) == {
        s for s, v in values.items() if v is not None and not math.isnan(v)
    }
