"""The report of a mismatch, and its words."""

from odyssey_jax.store._leaves import Leaf
from odyssey_jax.store._match import compare, mismatch

SAVED = [
    Leaf("['a']", (3,), "float32"),
    Leaf("['b']", (), "int32"),
    Leaf("['c']", (2,), "bool"),
]


def test_equal_trees_match_in_any_order():
    report = compare(SAVED, SAVED[::-1])
    assert report.exact
    assert set(report.matched) == {"['a']", "['b']", "['c']"}


def test_every_kind_of_difference_is_reported_once():
    target = [
        Leaf("['a']", (4,), "bfloat16"),
        Leaf("['b']", (), "int32"),
        Leaf("['d']", (), "bool"),
    ]
    report = compare(SAVED, target)
    assert not report.exact
    error = mismatch(report, "checkpoint 3")
    assert error.missing == ("['d']",)
    assert error.extra == ("['c']",)
    assert error.shape == {"['a']": ((3,), (4,))}
    assert error.dtype == {"['a']": ("float32", "bfloat16")}
    assert str(error) == (
        "checkpoint 3 does not match the target: 1 leaf agrees, 3 differ. Build the model and "
        "the optimizer as they were when it was saved, start over in another directory, or "
        "restore a part of it with Store.restore(transfer=...).\n"
        "  missing from the checkpoint: ['d'] bool[]\n"
        "  extra in the checkpoint: ['c'] bool[2]\n"
        "  shape: ['a'] saved (3,), target (4,)\n"
        "  dtype: ['a'] saved float32, target bfloat16"
    )


def test_a_long_list_is_cut():
    many = [Leaf(f"[{i}]", (), "bool") for i in range(100)]
    lines = str(mismatch(compare(many, []), "x")).splitlines()
    assert len(lines) == 14
    assert lines[-1] == "  extra in the checkpoint: and 88 more"
