"""The strict comparison of two metrics."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tasks.judge.rows import Row
from tasks.judge.strict import all_passed, judge_cards, steady_steps, strict_row
from tasks.judge.tolerances import Basis
from tasks.records.card import Card, metric_from

EXACT = Basis(check="exact", reason="fingerprints agree")
APPROXIMATE = Basis(check="approximate", reason="torch 1 → 2")


def row(golden, actual, name="lm loss", basis=APPROXIMATE, platform=None, comparison="golden"):
    if not hasattr(golden, "steps"):
        golden = metric_from(range(1, len(golden) + 1), golden)
    if not hasattr(actual, "steps"):
        actual = metric_from(range(1, len(actual) + 1), actual)
    return strict_row(comparison, name, golden, actual, platform=platform, basis=basis)


@pytest.mark.parametrize(
    ("actual", "verdict"), [(10.5, "drift"), (9.5, "drift"), (10.51, "regression"), (9.49, "regression")]
)
def test_every_step_is_held_to_the_tolerance_on_both_sides(actual, verdict):
    values = [10.0] * 200
    changed = [*values[:150], actual, *values[151:]]
    result = row(values, changed)
    assert (result.verdict, result.first_step, result.worst_step) == (verdict, 151, 151)
    assert result.abs == pytest.approx(abs(actual - 10.0))
    assert result.rel == pytest.approx(abs(actual - 10.0) / 10.0)


def test_exact_check_fails_on_a_drift_that_approximate_passes():
    assert row([1.0], [1.001]).passed
    assert not row([1.0], [1.001], basis=EXACT).passed
    assert row([1.0], [1.0], basis=EXACT).verdict == "exact"


def test_first_and_worst_step_are_told_apart():
    result = row([1.0, 1.0, 1.0, 1.0], [1.0, 1.01, 1.04, 1.02])
    assert (result.first_step, result.worst_step, result.golden, result.actual) == (2, 3, 1.0, 1.04)


def test_the_reason_of_an_approximate_check_is_stated_where_values_differ():
    drift = row([1.0, 1.0], [1.0, 1.001])
    assert (drift.verdict, drift.check, drift.first_step) == ("drift", "approximate", 2)
    assert drift.note == "not exact: torch 1 → 2"
    assert row([1.0], [9.0]).note == "not exact: torch 1 → 2"


def test_equal_values_have_passed_the_exact_check_whatever_differs():
    equal = row([1.0], [1.0])
    assert (equal.verdict, equal.check, equal.tolerance) == ("exact", "exact", 0.0)
    assert equal.note == "equal, although torch 1 → 2"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("basis", [EXACT, APPROXIMATE])
@pytest.mark.parametrize("name", ["lm loss", "mem-allocated-bytes", "num-zeros"])
def test_what_is_no_number_never_matches(value, basis, name):
    bad, good = [1.0, value, 1.0], [1.0, 1.0, 1.0]
    for golden, actual in ((bad, good), (good, bad), (bad, bad)):
        result = row(golden, actual, name=name, basis=basis)
        assert (result.verdict, result.passed, result.first_step) == ("regression", False, 2)
        assert "step 2 is " in result.note


def test_less_memory_is_an_improvement_and_more_a_regression():
    golden = [100.0] * 50
    assert row(golden, [106.0, *golden[1:]], name="mem-allocated-bytes").verdict == "regression"
    assert row(golden, [94.0, *golden[1:]], name="mem-allocated-bytes").verdict == "improvement"
    assert row(golden, [94.0, 106.0, *golden[2:]], name="mem-allocated-bytes").verdict == "regression"
    assert row(golden, [104.0, *golden[1:]], name="mem-allocated-bytes").verdict == "drift"
    assert row(golden, [94.0, *golden[1:]], name="mem-allocated-bytes").tolerance == "+0.05"


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        ("cpu_x86_64", "relative-forward-time"),
        ("cpu_x86_64", "mem-allocated-bytes"),
        ("gpu1_h100", "iteration-time"),
        ("gpu1_h100", "mem-max-allocated-bytes"),
        ("dgx_a100", "iteration-time"),
        ("dgx_a100", "mem-allocated-bytes"),
    ],
)
def test_a_time_or_memory_of_0_was_not_measured(platform, name):
    some, none = ([value] * 50 for value in (1.0, 0.0))
    for golden, actual, side in ((some, none, "actual"), (none, some, "golden"), (none, none, "actual")):
        metrics = [metric_from(range(1, 51), values) for values in (golden, actual)]
        basis = Basis(check="exact", reason="")
        result = strict_row("golden", name, *metrics, platform=platform, basis=basis)
        assert (result.verdict, result.passed) == ("regression", False)
        assert result.note.startswith(f"{side} value is 0.0 at step ")
        assert result.note.endswith(": nothing was measured")


def growth(*, then, steps):
    return [0.0] * 5 + [then] * steps


@pytest.mark.parametrize(
    ("golden", "actual", "passed"),
    [
        (growth(then=4096.0, steps=10), growth(then=0.0, steps=10), False),
        (growth(then=4096.0, steps=10), [*growth(then=0.0, steps=9), 4096.0], True),
        (growth(then=0.0, steps=10), growth(then=0.0, steps=10), True),
        (growth(then=0.0, steps=0), growth(then=0.0, steps=0), True),
    ],
)
def test_growth_that_stays_at_0_beyond_the_warm_up_was_not_measured(golden, actual, passed):
    result = row(golden, actual, name="mem-growth-bytes")
    assert result.passed == passed
    assert (result.note == "actual value stays at 0: nothing was measured") == (not passed)


def test_a_restart_of_a_few_steps_may_grow_by_nothing():
    golden, actual = growth(then=4096.0, steps=10), growth(then=0.0, steps=10)
    assert row(golden, actual, name="mem-growth-bytes", comparison="resume").passed


@pytest.mark.parametrize("name", ["mem-allocated-bytes", "mem-growth-bytes"])
def test_a_restart_that_needs_less_than_its_own_run_is_no_improvement_to_record(name):
    golden, actual = [5.0 * 2**24] * 12, [2.0**24] * 12
    assert row(golden, actual, name=name).verdict == "improvement"
    resumed = row(golden, actual, name=name, comparison="resume")
    assert (resumed.verdict, resumed.passed, resumed.note) == ("drift", True, "")


def test_one_steady_step_without_a_measured_time_is_told():
    golden = [1.0] * 100
    assert row(golden, [*golden[:34], 0.0, *golden[35:]], name="iteration-time").verdict == "regression"


def test_iteration_time_is_a_median_that_one_slow_step_does_not_move():
    golden = [1.0] * 100
    one_slow = [*golden[:34], 50.0, *golden[35:]]
    assert row(golden, one_slow, name="iteration-time").verdict == "exact"
    slow = row(golden, [1.31] * 100, name="iteration-time")
    assert (slow.verdict, slow.steps, slow.golden, slow.actual) == ("regression", "median 30-45", 1.0, 1.31)
    assert row(golden, [0.5] * 100, name="iteration-time").verdict == "improvement"
    with_nan = [*golden[:34], float("nan"), *golden[35:]]
    lost = row(golden, with_nan, name="iteration-time")
    assert (lost.passed, lost.note) == (False, "actual values of steps 30-45 are not all numbers")
    for unmeasured, step in ((float("nan"), 20), (-5.0, 60)):  # outside of the steady steps
        broken = row(
            golden,
            [*golden[: step - 1], unmeasured, *golden[step:]],
            name="iteration-time",
            platform="dgx_a100",
        )
        note = f"actual value is {unmeasured} at step {step}: nothing was measured"
        assert (broken.verdict, broken.note) == ("regression", note)
    assert row(golden, golden[:40], name="iteration-time").verdict == "missing"
    assert row([1.0] * 4, [1.0] * 4, name="iteration-time").verdict == "missing"


def test_missing_and_extra_steps_are_named():
    golden = metric_from([1, 2, 3, 4], [1.0] * 4)
    for steps, first, note in (
        ([1, 2, 4], 3, "step 3 missing in the actual values"),
        ([1], 2, "step 2 and 2 more missing in the actual values"),
        ([1, 2, 3, 4, 5, 6], 5, "step 5 and 1 more missing in the golden values"),
    ):
        result = row(golden, metric_from(steps, [1.0] * len(steps)))
        assert (result.verdict, result.passed, result.first_step) == ("missing", False, first)
        assert result.note == note


def test_missing_metric_and_no_common_step_never_pass():
    one = metric_from([1], [1.0])
    for golden, actual in ((None, one), (one, None), (None, None), (one.between(5, 6), one)):
        result = strict_row("golden", "lm loss", golden, actual, basis=EXACT)
        assert (result.verdict, result.passed) == ("missing", False)
        assert result.note


def test_shown_metric_is_never_a_pass_by_itself():
    shown = row([1.0] * 100, [9.0] * 100, name="iteration-time", platform="cpu_x86_64")
    assert (shown.verdict, shown.passed, shown.judged, shown.check) == ("not judged", True, False, "shown")
    assert not all_passed([shown])
    assert not all_passed([])
    good = row([1.0], [1.0])
    assert all_passed([shown, good])
    assert not all_passed([good, dataclasses.replace(shown, comparison="resume")])
    assert not all_passed([good, Row(comparison="golden", metric="x", check="exact", verdict="missing")])


def test_rows_cover_what_the_case_asks_for_and_all_of_the_card():
    golden = Card(metrics={"a": metric_from([1], [1.0]), "b": metric_from([1], [1.0])})
    rows = judge_cards("golden", golden, golden, metrics=("b", "c"), basis=EXACT)
    assert [(row.metric, row.passed) for row in rows] == [("b", True), ("c", False), ("a", True)]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (range(1, 26), range(5, 21)),
        (range(1, 27), []),  # from 30 on there is nothing
        (range(1, 33), range(30, 33)),
        (range(1, 101), range(30, 46)),
        (range(60, 101), range(60, 64)),
        ([1, 50, 100], [50, 100]),
        ([21, 22], [21, 22]),
        ([], []),
    ],
)
def test_steady_steps(steps, expected):
    assert steady_steps(np.array(list(steps), dtype=int)).tolist() == list(expected)


def test_overlap_counts_are_exact_where_losses_may_drift():
    assert row([16.0, 16.0], [16.0, 16.0], name="overlap-grad-buckets").passed
    result = row([16.0, 16.0], [16.0, 15.0], name="overlap-grad-buckets")
    assert (result.passed, result.first_step, result.tolerance) == (False, 2, 0.0)


def test_overlap_counts_of_the_first_step_after_a_restart_are_left_out_and_it_is_said():
    def restarted(golden, actual):
        metrics = [metric_from(range(51, 51 + len(values)), values) for values in (golden, actual)]
        return strict_row("resume", "overlap-grad-buckets", *metrics, basis=EXACT)

    result = restarted([16.0, 16.0, 16.0], [0.0, 16.0, 16.0])
    assert (result.passed, result.steps) == (True, "52-53")
    assert "without step 51" in result.note
    assert not restarted([16.0, 16.0], [16.0, 0.0]).passed
    assert not restarted([16.0], [16.0]).passed


def test_a_time_of_phase_1_that_is_no_number_is_not_left_out():
    golden, actual = [1.0] * 9 + [float("nan")] + [1.0] * 10, [1.0] * 20
    slow = row(golden, actual, name="relative-step-time", platform="cpu_x86_64", comparison="resume")
    assert (slow.steps, slow.verdict) == ("median 6-20", "regression")


def test_where_later_steps_are_asked_for_the_first_of_them_is_not_left_out():
    golden, actual = (metric_from(range(60, 101), [first] + [8.0] * 40) for first in (8.0, 0.0))
    for begins, passed in ((51, False), (60, True), (None, True)):
        (row,) = judge_cards(
            "resume",
            Card(metrics={"overlap-grad-buckets": golden}),
            Card(metrics={"overlap-grad-buckets": actual}),
            basis=EXACT,
            begins=begins,
        )
        assert (row.first_step, row.passed) == (None if passed else 60, passed)


def test_memory_may_grow_as_in_the_golden_run_and_a_few_mib_more():
    mib = 2.0**20
    golden = [(1.0 + 0.1 * step) * mib for step in range(12)]
    assert row(golden, [value + 3.9 * mib for value in golden], name="mem-growth-bytes").passed
    leaking = [value + step * mib for step, value in enumerate(golden)]
    result = row(golden, leaking, name="mem-growth-bytes")
    assert (result.verdict, result.first_step, result.worst_step) == ("regression", 6, 12), result


@pytest.mark.parametrize(
    ("platform", "more", "passed", "tolerance"),
    [
        ("gpu1_h100", 48.1, True, "+0.2 +4.1943e+06"),
        ("gpu1_h100", 48.3, False, "+0.2 +4.1943e+06"),
        ("dgx_h100", 4.1, False, "+4.1943e+06"),
        ("cpu_x86_64", 4.1, False, "+4.1943e+06"),
        (None, 4.1, False, "+4.1943e+06"),
    ],
)
def test_where_ranks_share_a_gpu_growth_that_is_large_varies_with_its_size(platform, more, passed, tolerance):
    """After a fully reshardable save: 221 and 249 MiB on two hosts with an H100."""
    golden, actual = ([221.0 * 2**20] * 12, [(221.0 + more) * 2**20] * 12)
    result = row(golden, actual, name="mem-growth-bytes", platform=platform)
    assert (result.passed, result.tolerance) == (passed, tolerance)


def test_the_step_shown_as_worst_is_one_that_fails():
    """Of growth, a small step differs by more of its value, inside the tolerance."""
    mib = 2.0**20
    result = row(
        [1.0 * mib] * 6 + [8.0 * mib] * 3,
        [3.0 * mib] * 6 + [13.0 * mib, 14.0 * mib, 8.0 * mib],
        name="mem-growth-bytes",
        platform="cpu_x86_64",
    )
    assert (result.first_step, result.worst_step, result.abs) == (7, 8, 6 * mib)


def test_where_nothing_was_measured_the_step_shown_is_that_of_the_note():
    result = row([100.0] * 12, [100.0] * 3 + [0.0] + [106.0] * 8, name="mem-allocated-bytes")
    assert (result.note, result.worst_step) == ("actual value is 0.0 at step 4: nothing was measured", 4)


def relative_time(actual, *, same_processor=True, platform="cpu_x86_64", name="relative-backward-time"):
    metrics = [metric_from(range(1, 13), [value] * 12) for value in (24.0, actual)]
    basis = Basis(check="exact", reason="", same_processor=same_processor)
    return strict_row("golden", name, *metrics, platform=platform, basis=basis)


def test_relative_times_are_judged_on_a_cpu_of_the_same_kind_only():
    assert relative_time(24.0 * 1.14).passed
    assert not relative_time(24.0 * 1.3).passed
    assert relative_time(24.0 * 0.5).verdict == "improvement"
    assert relative_time(0.0).note == "actual value is 0.0 at step 5: nothing was measured"
    assert relative_time(24.0 * 1.3, same_processor=False).verdict == "not judged"
    assert relative_time(24.0 * 1.3, platform="dgx_a100").verdict == "not judged"


def test_one_slow_step_is_no_slow_run():
    metrics = [metric_from(range(1, 13), values) for values in ([24.0] * 12, [24.0] * 11 + [240.0])]
    assert strict_row("golden", "relative-backward-time", *metrics, platform="cpu_x86_64", basis=EXACT).passed


@pytest.mark.parametrize(("last", "verdict"), [(17, "not judged"), (29, "not judged"), (30, "regression")])
def test_a_relative_time_after_a_restart_is_judged_only_over_enough_steady_steps(last, verdict):
    golden, actual = (metric_from(range(16, last + 1), [time] * (last - 15)) for time in (10.0, 20.0))
    slow = row(golden, actual, name="relative-step-time", platform="cpu_x86_64", comparison="resume")
    assert (slow.verdict, slow.passed) == (verdict, verdict == "not judged")
    assert slow.check == ("shown" if last < 30 else "approximate")


def test_on_another_layout_the_schedule_stays_exact_and_what_depends_on_the_ranks_is_only_shown():
    layout = Basis(check="approximate", reason="layout", only_the_model="layout")
    for name, off, verdict in (
        ("lm loss", 1.04, "drift"),
        ("lm loss", 1.06, "regression"),
        ("grad-norm", 1.21, "regression"),
        ("learning-rate", 1 + 1e-7, "regression"),
        ("learning-rate", 1.0, "exact"),
        ("decoupled-learning-rate", 1 + 1e-7, "regression"),
        ("overlap-grad-buckets", 2.0, "not judged"),
        ("mem-growth-bytes", 1e9, "not judged"),
        ("relative-step-time", 2.0, "not judged"),
    ):
        golden, actual = (metric_from(range(1, 31), [value] * 30) for value in (1.0, off))
        assert row(golden, actual, name=name, basis=layout, comparison="resume").verdict == verdict, name
    assert row([1.0], [1 + 1e-7], name="learning-rate").verdict == "drift"
