"""Megatron-LM's decisions, reproduced: its own verdicts on all pairs of seven real cards, and its odd
corners.
"""

from __future__ import annotations

import json

import pytest

from tasks.judge.megatron_policy import decide, judge_cards
from tasks.records.card import Card, metric_from
from tasks.records.card_store import read_card
from tasks.util.files import REPOSITORY

DATA = REPOSITORY / "tests" / "data" / "megatron_cards"
VERDICTS = json.loads((DATA / "verdicts.json").read_text())


def test_all_343_verdicts_of_the_real_comparator():
    cards = {path.name: read_card(path) for path in DATA.glob("golden_values_*.json")}
    wrong = [
        entry
        for entry in VERDICTS
        for golden, actual, name, check, passed in [entry]
        if decide(cards[golden].metrics.get(name), cards[actual].metrics.get(name), name=name, check=check)
        is not passed
    ]
    assert len(VERDICTS) == 343
    assert wrong == []


def series(values, first=1):
    return metric_from(range(first, first + len(values)), values, full_precision=False)


@pytest.mark.parametrize(
    ("count", "failing", "passed"),
    [
        (1, 1, False),
        (2, 1, True),
        (3, 1, False),  # 2/3 >= 1 - 1/3 is false in floating point
        (4, 1, True),
        (100, 1, True),
        (100, 2, False),
        (200, 2, True),
        (200, 3, False),
        (6000, 50, True),
        (6000, 51, False),
    ],
)
def test_how_many_steps_are_excused(count, failing, passed):
    golden = series([1.0] * count)
    actual = series([1e9] * failing + [1.0] * (count - failing))
    assert decide(golden, actual, name="lm loss", check="approximate") is passed
    assert decide(golden, actual, name="lm loss", check="exact") is False


def test_tolerances_are_relative_to_the_golden_value():
    for name, factor, passed in (
        ("lm loss", 1.049, True),
        ("lm loss", 1.051, False),
        ("lm loss", 0.951, True),
        ("num-zeros", 1.19, True),
        ("num-zeros", 0.79, False),
        ("mem-max-allocated-bytes", 1.06, False),
        ("mem-allocated-bytes", 0.94, False),
    ):
        assert (
            decide(series([2.0] * 5), series([2.0 * factor] * 5), name=name, check="approximate") is passed
        ), name


def test_nan_text_in_the_card_matches_a_step_that_the_run_does_not_have(tmp_path):
    path = tmp_path / "card.json"
    path.write_text(
        '{"lm loss": {"start_step": 1, "end_step": 2, "step_interval": 1, "values": {"1": 1.0, "2": "nan"}}}'
    )
    golden = read_card(path).metrics["lm loss"]
    assert decide(golden, series([1.0]), name="lm loss", check="exact") is True
    assert decide(golden, series([1.0, 5.0]), name="lm loss", check="exact") is False


def test_a_real_nan_matches_nothing():
    nan = series([float("nan")] * 3)
    assert decide(nan, nan, name="lm loss", check="approximate") is False


@pytest.mark.parametrize(
    ("first", "last", "slow", "passed"),
    [
        (1, 25, range(5, 21), False),
        (1, 25, range(21, 26), True),
        (1, 25, range(1, 5), True),
        (1, 100, range(30, 46), False),
        (1, 100, [*range(1, 30), *range(46, 101)], True),
        (51, 100, range(51, 55), False),
        (51, 100, range(55, 101), True),
    ],
)
def test_iteration_time_is_one_median_over_the_steady_steps(first, last, slow, passed):
    golden = series([1.0] * (last - first + 1), first)
    actual = series([2.0 if step in slow else 1.0 for step in range(first, last + 1)], first)
    assert decide(golden, actual, name="iteration-time", check="approximate") is passed


def test_missing():
    usual = series([1.0] * 4)
    assert decide(None, usual, name="lm loss", check="exact") is None
    assert decide(usual, None, name="lm loss", check="exact") is None
    assert decide(usual.between(9, 9), usual, name="lm loss", check="exact") is None
    assert decide(usual, usual, name="iteration-time", check="approximate") is None  # no step from 5 on


def test_rows_round_a_run_at_full_precision_to_the_card():
    golden = Card(metrics={"lm loss": series([1.12346])})
    actual = Card(metrics={"lm loss": metric_from([1], [1.1234567])})
    (row,) = judge_cards("golden", golden, actual, metrics=("lm loss",), checks=("exact",))
    assert (row.verdict, row.passed) == ("exact", True)


def test_missing_metric_never_passes_and_defaults_are_megatron_lms():
    rows = judge_cards("golden", Card(metrics={}), Card(metrics={}), checks=("exact", "approximate"))
    assert [(row.metric, row.verdict, row.passed) for row in rows] == [
        (name, "missing", False) for name in ("lm loss", "num-zeros") for _ in range(2)
    ]
