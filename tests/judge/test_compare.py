"""Two series compared step by step: distances and their corners."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.judge.compare import compare, relative_difference, step_text, ulp_distance
from tasks.records.card import metric_from


def test_steps_as_text():
    assert step_text(np.array([1, 2, 3])) == "1-3"
    assert step_text(np.array([1, 5, 10])) == "1-10 (3 steps)"
    assert step_text(np.array([7])) == "7"
    assert step_text(np.array([], dtype=int)) == "none"


def test_ulp_distance_counts_float32_numbers():
    one = np.float32(1.0)
    after = np.nextafter(one, np.float32(2))
    tiny = np.float32(1e-45)
    golden = np.array([one, one, after, 0.0, -0.0, tiny, 1.0], dtype=np.float64)
    actual = np.array([one, after, one, -0.0, tiny, -tiny, 2.0], dtype=np.float64)
    assert ulp_distance(golden, actual).tolist() == [0, 1, 1, 0, 1, 2, 2**23]


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(first=floats, second=floats)
def test_ulp_distance_is_a_distance(first, second):
    a, b = np.array([first]), np.array([second])
    assert ulp_distance(a, b) == ulp_distance(b, a)
    assert bool(ulp_distance(a, b)[0] == 0) is (first == second)
    if first != second:
        next_to_first = float(np.nextafter(np.float32(first), np.float32(second)))
        assert ulp_distance(np.array([next_to_first]), b)[0] == ulp_distance(a, b)[0] - 1


def test_relative_difference_corners():
    golden = np.array([0.0, 0.0, 2.0, np.nan, np.inf, 1.0, -2.0])
    actual = np.array([0.0, 1.0, 1.0, np.nan, np.inf, np.nan, 2.0])
    assert relative_difference(golden, actual).tolist() == [0.0, np.inf, 0.5, np.inf, np.inf, np.inf, 2.0]


def test_the_worst_of_some_steps_is_one_of_them():
    golden, actual = (
        metric_from([1, 2, 3, 4], values) for values in ([0.0, 2.0, 2.0, 2.0], [9.0, 8.0, 3.0, 2.5])
    )
    differences = compare(golden, actual)
    assert differences.worst() == 0
    assert differences.worst(np.array([False, True, True, False])) == 1
    assert differences.shown(np.array([False, False, True, True]))["worst_step"] == 3


def test_worst_step_without_a_bound_is_the_largest_difference():
    differences = compare(metric_from([1, 2, 3], [0.0, 0.0, 1.0]), metric_from([1, 2, 3], [1.0, 5.0, 1e6]))
    assert differences.worst() == 1
