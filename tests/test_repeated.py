"""A row that is there twice is found in whatever pieces the rows of a table come, and the rows are not kept."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.results import repeated
from sim.results.repeated import KEY_BITS, Repeated, second

PARTS = 5
ROWS = st.lists(st.tuples(st.integers(0, PARTS - 1), st.integers(0, 6)), max_size=40)


def taken(rows, bounds):
    found = Repeated(PARTS)
    for some in np.split(np.array(rows, dtype=np.int64).reshape(-1, 2), sorted(bounds)):
        found.take(some[:, 0], some[:, 1])
    return found


def first_repeated(rows):
    return next((i for i, row in enumerate(rows) if row in rows[:i]), None)


@settings(deadline=None)
@given(ROWS, st.lists(st.integers(0, 40), max_size=6))
def test_the_first_row_that_was_there_is_found_in_any_pieces_where_records_are_together(rows, bounds):
    rows.sort(key=lambda row: row[0])
    found = taken(rows, bounds)
    assert found.is_known
    assert found.row == first_repeated(rows)


@settings(deadline=None)
@given(ROWS, st.lists(st.integers(0, 40), max_size=6))
def test_of_records_in_two_places_it_is_said_that_it_is_not_known(rows, bounds):
    found = taken(rows, bounds)
    together = [part for i, (part, _) in enumerate(rows) if i == 0 or rows[i - 1][0] != part]
    if found.is_known and found.row is None:
        assert len(together) == len(set(together))
        assert first_repeated(rows) is None
    if found.is_known and found.row is not None:
        assert found.row == first_repeated(rows)
    codes = np.array([part << KEY_BITS | number for part, number in rows], dtype=np.int64)
    assert second(codes) == first_repeated(rows)


def test_a_record_of_too_many_rows_is_not_kept(monkeypatch):
    monkeypatch.setattr(repeated, "MOST_KEPT", 3)
    assert taken([(0, n) for n in range(4)], [2]).is_known is False
    assert taken([(n // 3, n) for n in range(12)], [5]).is_known
