"""Rows as text in columns."""

from __future__ import annotations

from tasks.reports.columns import aligned


def test_each_column_is_as_wide_as_its_widest_cell() -> None:
    assert aligned([("a", "bbb", ""), ("aa", "b", "c")]) == "a   bbb\naa  b    c"
