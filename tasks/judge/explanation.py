"""What a verdict most likely means, in plain sentences: what moved, when, how far, and where to look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.judge.compare import Differences, compare
from tasks.judge.restart_evidence import loaded_iteration
from tasks.judge.strict import (
    CHECK_EQUAL,
    DRIFT,
    EXACT,
    IMPROVEMENT,
    MISSING,
    NOTHING_MEASURED,
    REGRESSION,
    Row,
)
from tasks.judge.tolerances import GOLDEN, RESTART, RESUME, rule_for
from tasks.records.card import Card, Metric
from tasks.records.fingerprint import Change
from tasks.records.run import Run

GROWS, STAYS, SHRINKS = "grows", "stays", "shrinks"
CLEARLY = 2.0  # a gap grows when its last third is on average this much larger than its first
FEWEST_STEPS = 6  # fewer say nothing about a trend
UNREPEATED = (
    ", or a computation does not repeat: every digest of the loaded state was right "
    '(docs/determinism.md, "Again and again", tells which)'
)


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a metric went: bit-equal up to ``equal_to`` (None: never), parting at ``first``."""

    comparison: str
    metric: str
    equal_to: int | None
    first: int
    ulp: int | None
    trend: str | None

    def __str__(self) -> str:
        begin = (
            f"equal to step {self.equal_to}, parts at step {self.first}"
            if self.equal_to is not None
            else f"differs from step {self.first}"
        )
        far = f", by up to {self.ulp} ulp" if self.ulp is not None else ""
        gap = f", the gap {self.trend}" if self.trend else ""
        return f"{self.comparison}: {self.metric}: {begin}{far}{gap}"


def explain(
    rows: list[Row],
    *,
    golden: Card | None,
    changes: list[Change],
    run: Run | None = None,
    actual: Card | None = None,
) -> list[str]:
    """Sentences for people: the courses of the metrics that differ, then what that most likely means."""
    actual = run.actual1 if run else actual
    record = run.restarted[0] if run else None
    loaded = loaded_iteration(record) if record else None
    sides = {GOLDEN: (golden, actual), RESUME: (run.saved[1], run.restarted[1]) if run else (None, None)}
    courses = [
        course
        for row in rows
        for course in [_course_of(row, *sides.get(row.comparison, (None, None)))]
        if course
    ]
    golden_rows = [row for row in rows if row.comparison == GOLDEN]
    causes = [
        *(
            f"{row.note} ({row.metric}): record a new card, or undo the change"
            for row in golden_rows
            if row.check == CHECK_EQUAL and row.verdict == REGRESSION
        ),
        *_values_that_are_no_numbers(rows),
        *_missing_steps(golden_rows),
        *_resume_cause(rows, courses, loaded),
        *_golden_cause(golden_rows, courses, loaded, restarted=run is None or run.crashes),
        *_resources(golden_rows),
        *_drift(golden_rows, changes),
    ]
    return [*dict.fromkeys(map(str, courses)), *dict.fromkeys(causes)]


def course(
    comparison: str, metric: str, differences: Differences, *, before: int | None = None
) -> Course | None:
    """The course of a metric, or None when all its steps are equal. ``before``: a step known to be equal,
    before all compared ones (what phase 2 loaded).
    """
    first = differences.first()
    if first is None:
        return None
    largest = int(differences.ulp.max())
    return Course(
        comparison=comparison,
        metric=metric,
        equal_to=int(differences.steps[first - 1]) if first else before,
        first=int(differences.steps[first]),
        ulp=largest if largest >= 0 else None,
        trend=trend(differences.relative[first:]),
    )


def trend(gaps: np.ndarray) -> str | None:
    """Whether relative differences (float64, shape (n,), in order of step) grow, stay or shrink; None if too
    few.
    """
    gaps = gaps[np.isfinite(gaps)]
    if gaps.size < FEWEST_STEPS:
        return None
    third = gaps.size // 3
    early, late = gaps[:third].mean(), gaps[-third:].mean()
    if late > CLEARLY * early:
        return GROWS
    return SHRINKS if early > CLEARLY * late else STAYS


def _course_of(row: Row, golden: Card | None, actual: Card | None) -> Course | None:
    if golden is None or actual is None or row.first_step is None or not _deterministic(row):
        return None
    pair: list[Metric | None] = [card.metrics.get(row.metric) for card in (golden, actual)]
    if None in pair:
        return None
    if pair[1].full_precision and not pair[0].full_precision:
        pair[1] = pair[1].rounded()
    before = row.first_step - 1 if row.comparison == RESUME else None
    return course(row.comparison, row.metric, compare(*pair), before=before)


def _values_that_are_no_numbers(rows: list[Row]) -> list[str]:
    return [
        f"{row.comparison}: {row.metric}: {row.note}"
        for row in rows
        if row.verdict == REGRESSION and " value at step " in row.note
    ]


def _missing_steps(rows: list[Row]) -> list[str]:
    return [
        f"{row.metric}: {row.note}: the run ended early, or did not log it"
        for row in rows
        if row.verdict == MISSING and "missing in the actual values" in row.note
    ][:1]


def _resume_cause(rows: list[Row], courses: list[Course], loaded: int | None) -> list[str]:
    causes = [
        row.note
        for row in rows
        if row.comparison == RESTART and row.verdict == MISSING and row.note.startswith("nothing")
    ]
    digests = [row for row in rows if row.comparison == RESTART and row.metric.startswith("state: ")]
    state = [row for row in digests if not row.passed]
    failed = [
        row for row in rows if row.comparison == RESUME and row.verdict == REGRESSION and _deterministic(row)
    ]
    parted = [
        course
        for course in courses
        if course.comparison == RESUME and course.metric in {row.metric for row in failed}
    ]
    if not parted and not state:
        return causes
    first = min((course.first for course in parted), default=None)
    equal_to = first - 1 if first is not None else loaded
    which = ", ".join(f"{row.metric.removeprefix('state: ')} ({row.note})" for row in state)
    hint = f": {which}" if which else UNREPEATED if digests else ""
    begin = f"equal to step {equal_to}, then parts" if first is not None else "values are equal"
    return [*causes, f"{begin}: the restart did not restore all state{hint}"]


def _golden_cause(
    rows: list[Row], courses: list[Course], loaded: int | None, *, restarted: bool
) -> list[str]:
    failed = {row.metric for row in rows if row.verdict == REGRESSION and _deterministic(row)}
    parted = [course for course in courses if course.comparison == GOLDEN and course.metric in failed]
    causes = []
    verdicts = {row.metric: row.verdict for row in rows}
    if verdicts.get("lm loss") == EXACT and verdicts.get("num-zeros") in (REGRESSION, DRIFT):
        causes.append("lm loss equal, num-zeros differ: the forward pass is the same, the gradients are not")
    if not parted:
        return causes
    earliest = min(parted, key=lambda course: course.first)
    if earliest.equal_to is None:
        return [*causes, f"differs from step {earliest.first}: initialisation, data or environment"]
    begin = f"equal to step {earliest.equal_to}, then parts"
    if restarted:
        return [
            *causes,
            f"{begin}: the restart did not restore all state, if there was one at step {earliest.equal_to}; "
            "otherwise what that step brings: data, schedule, a rare branch",
        ]
    if earliest.equal_to == loaded:
        return [*causes, f"{begin}: saving the checkpoint changed the state"]
    return [*causes, f"{begin}: what step {earliest.first} brings: data, schedule, a rare branch, or chance"]


def _resources(rows: list[Row]) -> list[str]:
    loss = next((row.verdict for row in rows if row.metric == "lm loss"), None)
    ending = {EXACT: "and loss is equal: ", DRIFT: "and loss is within tolerance: "}.get(
        loss, "and loss differs too: "
    )
    causes = []
    for row in rows:
        if not _beyond_tolerance(row):
            continue
        percent = f"{100 * row.rel:.0f} %" if row.rel >= 0.01 else f"{100 * row.rel:.2g} %"
        if row.metric == "iteration-time":
            span = row.steps.removeprefix("median ").split(" (")[0].replace("-", " to ")
            what, kind = f"steps {span} are {percent}", ("slower", "faster", "performance")
        elif row.metric.startswith("mem-"):
            what, kind = (
                f"{row.metric} at step {row.worst_step} is {percent}",
                ("bigger", "smaller", "memory"),
            )
        else:
            continue
        if row.verdict == IMPROVEMENT:
            causes.append(f"{what} {kind[1]}: an improvement, record a new card to keep it")
        else:
            causes.append(f"{what} {kind[0]} {ending}{kind[2]}")
    return causes


def _beyond_tolerance(row: Row) -> bool:
    numbers = isinstance(row.golden, float) and isinstance(row.actual, float) and row.rel is not None
    return numbers and row.verdict in (REGRESSION, IMPROVEMENT) and NOTHING_MEASURED not in row.note


def _drift(rows: list[Row], changes: list[Change]) -> list[str]:
    drifting = [row for row in rows if row.verdict == DRIFT and _deterministic(row)]
    if not drifting or not all(row.passed for row in rows):
        return []
    surroundings = [str(change) for change in changes if change.surroundings]
    if surroundings:
        changed = ", ".join(surroundings)
        return [f"all within tolerance and the environment changed ({changed}): drift, record a new card"]
    return ["all within tolerance of a card that is not held to equality: drift"]


def _deterministic(row: Row) -> bool:
    return row.check != CHECK_EQUAL and rule_for(row.metric).deterministic
