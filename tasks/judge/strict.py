"""The strict comparison, this harness' own policy: two metrics in, one row out. Pure functions over numbers.

Tolerances stand in ``tasks.cases.metrics``; Megatron-LM's own decisions in ``tasks.judge.megatron_policy``.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tasks.cases.metrics import WARM_UP_STEPS, Exact, MetricSpec, Rule, Shown, Tolerance, metric_named
from tasks.judge.compare import Differences, compare, step_text
from tasks.judge.rows import (
    CHECK_APPROXIMATE,
    CHECK_EXACT,
    CHECK_SHOWN,
    DRIFT,
    EXACT,
    GOLDEN,
    IMPROVEMENT,
    MISSING,
    NOT_JUDGED,
    REGRESSION,
    RESUME,
    Reason,
    Row,
    and_more,
)
from tasks.judge.tolerances import STEADY_STEPS_NEEDED, Basis, rule_for
from tasks.records.card import Card, Metric

NO_LIMIT = 2**62  # as a last step
_TOO_FEW = Shown(why=f"a median of fewer than {STEADY_STEPS_NEEDED} steps after the warm-up is not steady")
_CHECKS = {Exact: CHECK_EXACT, Tolerance: CHECK_APPROXIMATE, Shown: CHECK_SHOWN}


def strict_row(
    comparison: str,
    name: str,
    golden: Metric | None,
    actual: Metric | None,
    *,
    basis: Basis,
    platform: str | None = None,
    begins: int | None = None,
) -> Row:
    """Judge one metric. None: the side does not have the metric, which never passes.

    ``begins``: the first step after the restart, by default the first one of ``golden``.
    """
    metric = metric_named(name)
    rule = rule_for(name, platform=platform, comparison=comparison, basis=basis)
    row = _absent(comparison, name, golden, actual)
    row = dataclasses.replace(row, check=_CHECKS[type(rule)], tolerance=_tolerance(rule))
    if row.reason:
        return row
    remarks = []
    if actual.full_precision and not golden.full_precision:
        actual = actual.rounded()
        remarks.append("compared at 5 decimals")
    first = int(golden.steps[0])
    if comparison == RESUME and metric.first_step_apart and begins in (None, first):
        golden, actual = golden.between(first + 1, NO_LIMIT), actual.between(first + 1, NO_LIMIT)
        remarks.append(f"without step {first}: {metric.first_step_apart}")
        if not golden.steps.size:
            return row.because(MISSING, Reason.ONLY_FIRST_STEP, step=first, why=metric.first_step_apart)
    row = dataclasses.replace(row, remarks=tuple(remarks))
    if metric.kind.median:
        return _median_row(row, golden, actual, metric, rule)
    row = _every_step_row(row, golden, actual, metric, rule)
    relaxed = metric.kind.deterministic and isinstance(rule, Tolerance)
    return _with_basis(row, basis, full_precision=golden.full_precision) if relaxed else row


def judge_cards(
    comparison: str,
    golden: Card,
    actual: Card,
    *,
    metrics: tuple[str, ...] | None = None,
    basis: Basis,
    platform: str | None = None,
    begins: int | None = None,
) -> list[Row]:
    """A row a metric: those asked for first, then all others of the golden card. At least one row, or none
    passes. ``begins``: as of ``strict_row``.
    """
    names = dict.fromkeys([*(metrics or ()), *golden.metrics])
    pairs = {name: (golden.metrics.get(name), actual.metrics.get(name)) for name in names}
    return [
        strict_row(comparison, name, *pair, basis=basis, platform=platform, begins=begins)
        for name, pair in pairs.items()
    ]


def all_passed(rows: list[Row]) -> bool:
    """True when all rows passed and each comparison judged at least one. Nothing compared is not a pass."""
    comparisons = {row.comparison for row in rows}
    judged = {row.comparison for row in rows if row.judged}
    return bool(rows) and comparisons == judged and all(row.passed for row in rows)


def steady_steps(steps: np.ndarray) -> np.ndarray:
    """Steps whose time is compared, from a golden metric's finite steps: 5 to 20 if the last is at most 25,
    else 30 to 45; without any, four from the start of that window. Source: Megatron-LM's functional tests.
    """
    if steps.size == 0:
        return steps
    start, end = (5, 20) if steps[-1] <= 25 else (30, 45)
    window = steps[(steps >= start) & (steps <= end)]
    return window if window.size else steps[steps >= start][:4]


def _tolerance(rule: Rule) -> float | str | None:
    if isinstance(rule, Shown):
        return None
    if isinstance(rule, Exact):
        return 0.0
    if not rule.one_sided:
        return rule.relative
    return " ".join(f"+{part:g}" for part in (rule.relative, rule.absolute) if part)


def _absent(comparison: str, name: str, golden: Metric | None, actual: Metric | None) -> Row:
    """The initial row; it has a reason if a side has nothing to compare."""
    resume = comparison == RESUME
    sides = ("phase 1 has", "phase 2 has") if resume else ("the golden card has", "the actual values have")
    row = Row(comparison=comparison, metric=name, verdict=MISSING)
    for side, metric in zip(sides, (golden, actual), strict=True):
        if metric is None:
            return row.because(MISSING, Reason.METRIC_MISSING, side=side)
        if metric.steps.size == 0:
            return row.because(MISSING, Reason.NO_STEP, side=side)
    return row


def _every_step_row(row: Row, golden: Metric, actual: Metric, metric: MetricSpec, rule: Rule) -> Row:
    lacking = _step_gap(golden, actual, sparse=row.comparison == GOLDEN)
    differences = compare(golden, actual)
    row = dataclasses.replace(row, steps=step_text(differences.steps), **differences.shown())
    if isinstance(rule, Shown):
        return _not_judged(row, rule)
    if lacking:
        reason, steps = lacking
        row = dataclasses.replace(row, first_step=int(steps[0]), remarks=())
        return row.because(MISSING, reason, step=steps[0], more=and_more(steps.size))
    row = _judged(row, differences, metric, rule)
    outside = isinstance(rule, Tolerance) and row.verdict in (REGRESSION, IMPROVEMENT)
    return _outside(row, differences, rule) if outside else row


def _with_basis(row: Row, basis: Basis, *, full_precision: bool) -> Row:
    """The row of a metric that could have been exact, with the reason for its tolerance.

    Values that are equal to the last bit have passed the exact check.
    """
    if row.verdict == EXACT and full_precision:
        remarks = (f"equal, although {basis.reason}", *row.remarks)
        return dataclasses.replace(row, check=CHECK_EXACT, tolerance=0.0, remarks=remarks)
    if row.verdict == MISSING:
        return row
    return dataclasses.replace(row, remarks=(f"not exact: {basis.reason}", *row.remarks))


def _step_gap(golden: Metric, actual: Metric, *, sparse: bool) -> tuple[Reason, np.ndarray] | None:
    """The steps that one side lacks. A ``sparse`` card (1, 5, 10, …) does not miss those between its own."""
    if np.array_equal(golden.steps, actual.steps):
        return None
    missing = np.setdiff1d(golden.steps, actual.steps, assume_unique=True)
    if missing.size:
        return Reason.STEP_MISSING, missing
    interval = int(np.diff(golden.steps).max()) if golden.steps.size > 1 else 1
    extra = actual.steps[
        (actual.steps <= golden.steps[0] - interval) | (actual.steps >= golden.steps[-1] + interval)
    ]
    if not extra.size and (interval == 1 or not sparse):
        extra = np.setdiff1d(actual.steps, golden.steps, assume_unique=True)
    return (Reason.EXTRA_STEP, extra) if extra.size else None


def _judged(row: Row, differences: Differences, metric: MetricSpec, rule: Exact | Tolerance) -> Row:
    """The row with its verdict, for metrics whose steps agree."""
    row = _unmeasured(row, differences, metric, rule)
    if row.reason:
        return row
    if differences.equal.all():
        return row.because(EXACT)
    if isinstance(rule, Exact) or _beyond(differences, rule).any():
        return row.because(REGRESSION, Reason.DIFFERS)
    if rule.one_sided and not rule.restarted and _less(differences, rule).any():
        return row.because(IMPROVEMENT, Reason.LESS)
    return row.because(DRIFT)


def _unmeasured(row: Row, differences: Differences, metric: MetricSpec, rule: Exact | Tolerance) -> Row:
    """The row, with a reason if a value is not finite or was not measured."""
    golden, actual = differences.golden, differences.actual
    for side, series in (("actual", actual), ("golden", golden)):
        lost = np.flatnonzero(~np.isfinite(series.values))
        if lost.size:
            return row.because(REGRESSION, Reason.NOT_FINITE, side=side, **_place(series, lost[0]))
        unmeasured = np.flatnonzero(series.values <= 0)
        if metric.kind.positive and unmeasured.size:
            return row.because(REGRESSION, Reason.NOT_MEASURED, side=side, **_place(series, unmeasured[0]))
    anew = isinstance(rule, Tolerance) and rule.restarted
    if metric.kind.grows and not anew and not stays_at_0(golden) and stays_at_0(actual):
        return row.because(REGRESSION, Reason.STAYS_AT_0)
    return row


def _place(series: Metric, index: int) -> dict[str, object]:
    return {"step": int(series.steps[index]), "value": series.shown(index)}


def _outside(row: Row, differences: Differences, rule: Tolerance) -> Row:
    """The row with the first and the worst step outside the tolerance. For a value that was not measured, the
    reason names the step; the worst step stays that of all steps.
    """
    outside = _less(differences, rule) if row.verdict == IMPROVEMENT else _beyond(differences, rule)
    if not outside.any():
        return row
    unmeasured = row.reason in (Reason.NOT_MEASURED, Reason.STAYS_AT_0)
    shown = {} if unmeasured else differences.shown(mask=outside)
    return dataclasses.replace(row, **{**shown, "first_step": int(differences.steps[outside][0])})


def stays_at_0(metric: Metric) -> bool:
    """True when the metric has values after the warm-up and none is above 0."""
    grown = metric.values[WARM_UP_STEPS:]
    return grown.size > 0 and not (grown > 0).any()


def _allowed(differences: Differences, rule: Tolerance) -> np.ndarray:
    return rule.relative * np.abs(differences.golden.values) + rule.absolute


def _less(differences: Differences, rule: Tolerance) -> np.ndarray:
    """True where the value is below the golden one by more than the tolerance, bool (n,)."""
    return differences.golden.values - differences.actual.values > _allowed(differences, rule)


def _beyond(differences: Differences, rule: Tolerance) -> np.ndarray:
    """True where the value is outside the tolerance or not finite, bool (n,)."""
    with np.errstate(invalid="ignore"):
        change = differences.actual.values - differences.golden.values
        allowed = _allowed(differences, rule)
        within = np.isfinite(change) & (change <= allowed)
        return ~within if rule.one_sided else ~(within & (-change <= allowed))


def _median_row(row: Row, golden: Metric, actual: Metric, metric: MetricSpec, rule: Rule) -> Row:
    steps = steady_steps(golden.steps[np.isfinite(golden.values)])
    if row.comparison == RESUME:
        steps = golden.steps[WARM_UP_STEPS:]  # a non-finite time of phase 1 is reported, not skipped
        if steps.size < STEADY_STEPS_NEEDED and np.isfinite(golden.values).any():
            rule = rule if isinstance(rule, Shown) else _TOO_FEW
            row = dataclasses.replace(row, check=CHECK_SHOWN, tolerance=None)
    missing = np.setdiff1d(steps, actual.steps, assume_unique=True)
    if missing.size:
        row = row.because(MISSING, Reason.STEP_MISSING, step=missing[0], more=and_more(missing.size))
    elif not steps.size:
        row = row.because(MISSING, Reason.NO_STEADY_STEP)
    else:
        differences = compare(_median(golden, steps), _median(actual, steps))
        shown = {**differences.shown(), "first_step": None, "worst_step": None}
        row = dataclasses.replace(row, **median_of(steps), **shown)
        row = row if isinstance(rule, Shown) else _judged(row, differences, metric, rule)
        row = _with_lost_steps(row, differences, actual, steps)
    return _not_judged(row, rule) if isinstance(rule, Shown) else row


def _with_lost_steps(row: Row, medians: Differences, actual: Metric, steady: np.ndarray) -> Row:
    """The row of a median; it fails if the time of any step is not finite or was not measured."""
    if not np.isfinite(medians.actual.values).all():
        return row.because(row.verdict, Reason.MEDIAN_NOT_FINITE, steps=step_text(steady))
    lost = np.flatnonzero(~np.isfinite(actual.values) | (actual.values <= 0))
    if lost.size and row.verdict != REGRESSION:
        return row.because(REGRESSION, Reason.NOT_MEASURED, side="actual", **_place(actual, lost[0]))
    return row


def median_of(steps: np.ndarray) -> dict[str, object]:
    """The fields of a row that name the steps of a median."""
    return {"steps": f"median {step_text(steps)}", "median_of": (int(steps[0]), int(steps[-1]))}


def _median(metric: Metric, steps: np.ndarray) -> Metric:
    values = metric.values[np.isin(metric.steps, steps)]
    middle = np.median(values) if np.isfinite(values).all() else np.nan
    if (values <= 0).any():
        middle = values.min()  # a step that was not measured is reported, not outvoted
    return dataclasses.replace(metric, steps=steps[:1], values=np.array([middle]), texts={})


def _not_judged(row: Row, rule: Shown) -> Row:
    return dataclasses.replace(row, verdict=NOT_JUDGED, remarks=(*row.remarks, f"not judged: {rule.why}"))
