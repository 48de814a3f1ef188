"""The comparison: two metrics in, one row out. Pure functions over numbers, held to ``tasks.tolerances``.

Strict, the policy of this harness. Megatron-LM's own decisions are in ``tasks.megatron``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from tasks.judge.compare import Differences, compare, step_text
from tasks.judge.tolerances import (
    GOLDEN,
    OF_THE_MODEL,
    OF_THE_SCHEDULE,
    RESUME,
    STEADY_STEPS_NEEDED,
    WARM_UP_STEPS,
    Rule,
    rule_for,
)
from tasks.records.card import Card, Metric

EXACT, DRIFT, REGRESSION, MISSING = "exact", "drift", "regression", "missing"
IMPROVEMENT, NOT_JUDGED = "improvement", "not judged"
NOTHING_MEASURED = "nothing was measured"  # in the note of a row
CHECK_EXACT, CHECK_APPROXIMATE, CHECK_EQUAL, CHECK_SHOWN = "exact", "approximate", "equal", "shown"
LAST_STEP = 2**62


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the verdict. ``rel`` is a part of the golden value, ``ulp`` units in the last place of
    float32; ``golden``, ``actual``, ``abs`` and ``rel`` are those of the worst step, ``ulp`` is the largest
    of all steps.
    """

    comparison: str
    metric: str
    check: str
    steps: str = ""
    first_step: int | None = None
    worst_step: int | None = None
    golden: float | str | None = None
    actual: float | str | None = None
    abs: float | None = None
    rel: float | None = None
    ulp: int | None = None
    tolerance: float | str | None = None
    verdict: str
    passed: bool
    note: str = ""

    @property
    def judged(self) -> bool:
        return self.verdict != NOT_JUDGED


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Why deterministic metrics are held to the exact check, or only to the approximate one; whether both
    sides ran on the same kind of processor; why only values of model and schedule are judged, if so; whether
    the actual side was restarted on its way.
    """

    check: str
    reason: str
    same_processor: bool = True
    only_the_model: str = ""
    restarted: bool = False


def strict_row(
    comparison: str,
    name: str,
    golden: Metric | None,
    actual: Metric | None,
    *,
    rule: Rule,
    basis: Basis,
    begins: int | None = None,
) -> Row:
    """Judge one metric. None stands for a metric that a side does not have, which never passes.

    ``begins``: the first step after the restart, by default the first one of ``golden``.
    """
    if rule.same_processor and not basis.same_processor:
        rule = dataclasses.replace(rule, judged=False, why_not="the card was recorded on another processor")
    if comparison == RESUME or basis.restarted:
        # It measures growth anew, in a few steps there may be none, and to need less improves nothing.
        rule = dataclasses.replace(rule, grows=False, improves=False)
    if basis.only_the_model:
        rule = _only_the_model(name, rule, basis.only_the_model)
    check = _check(rule, basis)
    row = Row(
        comparison=comparison,
        metric=name,
        check=check,
        tolerance=_tolerance(rule, check),
        verdict=MISSING,
        passed=False,
    )
    absent = _absent(golden, actual, comparison)
    if absent:
        return dataclasses.replace(row, note=absent)
    notes = []
    if check == CHECK_APPROXIMATE and rule.deterministic:
        notes.append(f"not exact: {basis.reason}")
    if actual.full_precision and not golden.full_precision:
        actual = actual.rounded()
        notes.append("compared at 5 decimals")
    if rule.first_step_apart and begins in (None, golden.steps[0]):
        first = int(golden.steps[0])
        golden, actual = golden.between(first + 1, LAST_STEP), actual.between(first + 1, LAST_STEP)
        notes.append(f"without step {first}: {rule.first_step_apart}")
        if not golden.steps.size:
            return dataclasses.replace(row, note=f"no step to compare; {notes[-1]}")
    if rule.median:
        return _median_row(row, golden, actual, rule, notes)
    gap = _step_gap(golden, actual, sparse=comparison == GOLDEN)
    differences = compare(golden, actual)
    row = dataclasses.replace(row, steps=step_text(differences.steps), **differences.shown())
    if gap and rule.judged:
        step, note = gap
        return dataclasses.replace(row, first_step=step, note=note)
    verdict, note = _judge(differences, rule, check)
    if check == CHECK_APPROXIMATE and verdict in (REGRESSION, IMPROVEMENT):
        row = dataclasses.replace(row, **_outside(differences, rule, verdict, note))
    return _concluded(row, rule, verdict, [*notes, note])


def _only_the_model(name: str, rule: Rule, why: str) -> Rule:
    if name in OF_THE_SCHEDULE:
        return dataclasses.replace(rule, relative=0.0)
    if name in OF_THE_MODEL:
        return rule
    return dataclasses.replace(rule, judged=False, why_not=why)


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
    names = list(dict.fromkeys([*(metrics or ()), *golden.metrics]))
    return [
        strict_row(
            comparison,
            name,
            golden.metrics.get(name),
            actual.metrics.get(name),
            rule=rule_for(name, platform=platform, comparison=comparison),
            basis=basis,
            begins=begins,
        )
        for name in names
    ]


def all_passed(rows: list[Row]) -> bool:
    """Every row passed, and every comparison that has rows judged at least one; nothing compared is not a
    pass.
    """
    comparisons = {row.comparison for row in rows}
    judged = {row.comparison for row in rows if row.judged}
    return bool(rows) and comparisons == judged and all(row.passed for row in rows)


def steady_steps(steps: np.ndarray) -> np.ndarray:
    """Steps whose time is compared, of a golden metric's finite steps: 5 to 20 if the last is at most 25,
    else 30 to 45, else the first four from that window's start on. Source: Megatron-LM's functional-test
    comparator.
    """
    if steps.size == 0:
        return steps
    start, end = (5, 20) if steps[-1] <= 25 else (30, 45)
    window = steps[(steps >= start) & (steps <= end)]
    return window if window.size else steps[steps >= start][:4]


def _check(rule: Rule, basis: Basis) -> str:
    if not rule.judged:
        return CHECK_SHOWN
    return CHECK_EXACT if rule.deterministic and basis.check == CHECK_EXACT else CHECK_APPROXIMATE


def _tolerance(rule: Rule, check: str) -> float | str | None:
    if check == CHECK_SHOWN:
        return None
    if check == CHECK_EXACT:
        return 0.0
    if not rule.one_sided:
        return rule.relative
    return " ".join(f"+{part:g}" for part in (rule.relative, rule.absolute) if part)


def _absent(golden: Metric | None, actual: Metric | None, comparison: str) -> str:
    sides = (
        ("phase 1 has", "phase 2 has")
        if comparison == RESUME
        else ("the golden card has", "the actual values have")
    )
    for side, metric in zip(sides, (golden, actual), strict=True):
        if metric is None:
            return f"{side} no such metric"
        if metric.steps.size == 0:
            return f"{side} no step of it to compare"
    return ""


def _step_gap(golden: Metric, actual: Metric, *, sparse: bool) -> tuple[int, str] | None:
    """The first step that one side lacks. A ``sparse`` card (1, 5, 10, …) does not miss the steps between its
    own; a run is never sparse.
    """
    if np.array_equal(golden.steps, actual.steps):
        return None
    missing = np.setdiff1d(golden.steps, actual.steps, assume_unique=True)
    if missing.size:
        many = f" and {missing.size - 1} more" if missing.size > 1 else ""
        return int(missing[0]), f"step {missing[0]}{many} missing in the actual values"
    interval = int(np.diff(golden.steps).max()) if golden.steps.size > 1 else 1
    extra = actual.steps[
        (actual.steps <= golden.steps[0] - interval) | (actual.steps >= golden.steps[-1] + interval)
    ]
    if not extra.size and (interval == 1 or not sparse):
        extra = np.setdiff1d(actual.steps, golden.steps, assume_unique=True)
    if extra.size:
        many = f" and {extra.size - 1} more" if extra.size > 1 else ""
        return int(extra[0]), f"step {extra[0]}{many} missing in the golden values"
    return None


def _judge(differences: Differences, rule: Rule, check: str) -> tuple[str, str]:
    """Verdict and note of metrics whose steps agree."""
    golden, actual = differences.golden, differences.actual
    for side, metric in (("actual", actual), ("golden", golden)):
        lost = np.flatnonzero(~np.isfinite(metric.values))
        if lost.size and rule.judged:
            index = int(lost[0])
            return REGRESSION, f"{side} value at step {metric.steps[index]} is {metric.shown(index)}"
        unmeasured = np.flatnonzero(metric.values <= 0) if rule.positive and rule.judged else ()
        if len(unmeasured):
            index = int(unmeasured[0])
            value = f"{metric.shown(index)} at step {metric.steps[index]}"
            return REGRESSION, f"{side} value is {value}: {NOTHING_MEASURED}"
    if rule.grows and not stays_at_0(golden) and stays_at_0(actual):
        return REGRESSION, f"actual value stays at 0: {NOTHING_MEASURED}"
    if differences.equal.all():
        return EXACT, ""
    if check == CHECK_EXACT or _beyond(differences, rule).any():
        return REGRESSION, ""
    if rule.one_sided and rule.improves and _less(differences, rule).any():
        return IMPROVEMENT, "less than the golden card: record a new card to keep it"
    return DRIFT, ""


def _outside(differences: Differences, rule: Rule, verdict: str, note: str) -> dict[str, object]:
    """The fields of a row that say where its tolerance was left: a step inside it, first or worst, tells
    nothing. Of a value that is no number, or was not measured, the note tells the step.
    """
    outside = _less(differences, rule) if verdict == IMPROVEMENT else _beyond(differences, rule)
    if not outside.any():
        return {}
    shown = {} if NOTHING_MEASURED in note else differences.shown(among=outside)
    return {**shown, "first_step": int(differences.steps[outside][0])}


def stays_at_0(metric: Metric) -> bool:
    """Whether a metric that grows has values beyond the warm-up, and none above 0."""
    grown = metric.values[WARM_UP_STEPS:]
    return grown.size > 0 and not (grown > 0).any()


def _allowed(differences: Differences, rule: Rule) -> np.ndarray:
    return rule.relative * np.abs(differences.golden.values) + rule.absolute


def _less(differences: Differences, rule: Rule) -> np.ndarray:
    """Which steps are less than the golden ones by more than the tolerance, bool (n,)."""
    return differences.golden.values - differences.actual.values > _allowed(differences, rule)


def _beyond(differences: Differences, rule: Rule) -> np.ndarray:
    """Which steps leave the tolerance, bool (n,); a value that is no number does."""
    with np.errstate(invalid="ignore"):
        change = differences.actual.values - differences.golden.values
        allowed = _allowed(differences, rule)
        within = np.isfinite(change) & (change <= allowed)
        return ~within if rule.one_sided else ~(within & (-change <= allowed))


def _median_row(row: Row, golden: Metric, actual: Metric, rule: Rule, notes: list[str]) -> Row:
    finite = golden.steps[np.isfinite(golden.values)]
    steps = steady_steps(finite)
    if row.comparison == RESUME:
        steps = golden.steps[WARM_UP_STEPS:]  # a time of phase 1 that is no number is told, not left out
        if finite.size and steps.size < STEADY_STEPS_NEEDED and rule.judged:
            why_not = f"a median of fewer than {STEADY_STEPS_NEEDED} steps after the warm-up is not steady"
            rule = dataclasses.replace(rule, judged=False, why_not=why_not)
            row = dataclasses.replace(row, check=CHECK_SHOWN, tolerance=None)
    missing = np.setdiff1d(steps, actual.steps, assume_unique=True)
    if steps.size == 0 or missing.size:
        what = (
            f"step {missing[0]} is missing in the actual values"
            if missing.size
            else "no steady steps to compare"
        )
        return _concluded(row, rule, MISSING, [*notes, what])
    unmeasured = np.flatnonzero(~np.isfinite(actual.values) | (rule.positive & (actual.values <= 0)))
    lost = [f"{actual.shown(index)} at step {actual.steps[index]}" for index in unmeasured[:1]]
    golden, actual = _median(golden, steps, rule), _median(actual, steps, rule)
    differences = compare(golden, actual)
    shown = {**differences.shown(), "first_step": None, "worst_step": None}
    row = dataclasses.replace(row, steps=f"median {step_text(steps)}", **shown)
    verdict, note = _judge(differences, rule, row.check)
    if not np.isfinite(actual.values).all():
        note = f"actual values of steps {step_text(steps)} are not all numbers"
    elif lost and verdict != REGRESSION:  # of a step that is not among the steady ones
        verdict, note = REGRESSION, f"actual value is {lost[0]}: {NOTHING_MEASURED}"
    return _concluded(row, rule, verdict, [*notes, note])


def _median(metric: Metric, steps: np.ndarray, rule: Rule) -> Metric:
    values = metric.values[np.isin(metric.steps, steps)]
    middle = np.median(values) if np.isfinite(values).all() else np.nan
    if rule.positive and (values <= 0).any():
        middle = values.min()  # one that was not measured is told, not outvoted
    return dataclasses.replace(metric, steps=steps[:1], values=np.array([middle]), texts={})


def _concluded(row: Row, rule: Rule, verdict: str, notes: list[str]) -> Row:
    if not rule.judged:
        verdict, notes = NOT_JUDGED, [*notes, f"not judged: {rule.why_not}"]
    passed = verdict not in (REGRESSION, MISSING)
    return dataclasses.replace(row, verdict=verdict, passed=passed, note="; ".join(filter(None, notes)))
