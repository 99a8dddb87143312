"""The writers that fit takes, and what it refuses before anything is trained."""

import pytest

import odyssey_jax as ody
from odyssey_jax.fit._as_writers import as_writers

LINES = ody.JsonLines()


def test_any_iterable_of_writers_is_a_list_of_them():
    assert as_writers(writer for writer in (LINES,)) == [LINES]
    assert as_writers(()) == []


@pytest.mark.parametrize(
    ("writers", "error", "message"),
    [
        (LINES, TypeError, "writers must be a list of writers, got <.*JsonLines"),
        ("metrics.csv", TypeError, "writers must be a list of writers, got 'metrics.csv'"),
        ([ody.CsvFile], TypeError, r"CsvFile is a class: pass a writer, such as CsvFile\(...\)"),
        ([LINES, "csv"], TypeError, "'csv' has no open, write, close: a writer has"),
        ([LINES, ody.CsvFile(), LINES], ValueError, "JsonLines.* is there twice"),
    ],
)
def test_what_is_no_writer(writers, error, message):
    with pytest.raises(error, match=message):
        as_writers(writers)
