"""The likely cause of a verdict, in sentences: metrics that changed, when, by how much, where to look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.cases.metrics import LM_LOSS, NUM_ZEROS, metric_named
from tasks.judge.compare import Differences, compare
from tasks.judge.restart_evidence import STATE_LABEL, loaded_iteration
from tasks.judge.rows import CHECK_EQUAL, DRIFT, EXACT, GOLDEN, IMPROVEMENT, REGRESSION, RESUME, Reason, Row
from tasks.records.card import Card, Metric
from tasks.records.fingerprint import FieldChange
from tasks.records.run import Run

GROWS, STAYS, SHRINKS = "grows", "stays", "shrinks"
CLEARLY = 2.0  # a gap grows when its last third is on average this much larger than its first
FEWEST_STEPS = 6  # fewer show no trend
UNREPEATED = (
    ", or a computation does not repeat: every digest of the loaded state was right "
    '(see docs/determinism.md, "Again and again")'
)


@dataclass(frozen=True, kw_only=True)
class Course:
    """The course of a metric: identical through ``identical_to`` (None: never), diverging at ``first``."""

    comparison: str
    metric: str
    identical_to: int | None
    first: int
    ulp: int | None
    trend: str | None

    @property
    def begin(self) -> str:
        if self.identical_to is None:
            return f"differs from step {self.first}"
        return _diverges(self.identical_to, self.first)

    def __str__(self) -> str:
        far = f", by up to {self.ulp} ulp" if self.ulp is not None else ""
        gap = f", the gap {self.trend}" if self.trend else ""
        return f"{self.comparison}: {self.metric}: {self.begin}{far}{gap}"


def explain(
    rows: list[Row],
    *,
    golden: Card | None,
    changes: list[FieldChange],
    run: Run | None = None,
    actual: Card | None = None,
) -> list[str]:
    """Sentences for readers: the course of each metric that differs, then the likely causes."""
    actual = run.actual1 if run else actual
    record = run.restarted[0] if run else None
    loaded = loaded_iteration(record) if record else None
    sides = {GOLDEN: (golden, actual), RESUME: (run.saved[1], run.restarted[1]) if run else (None, None)}
    found = [_course_of(row, *sides.get(row.comparison, (None, None))) for row in rows]
    courses = [course for course in found if course]
    golden_rows = [row for row in rows if row.comparison == GOLDEN]
    causes = [
        *(
            f"{row.note} ({row.metric}): record a new card, or undo the change"
            for row in golden_rows
            if row.reason in (Reason.OTHER_CONFIGURATION, Reason.UNKNOWN_CONFIGURATION)
        ),
        *(f"{row.comparison}: {row.metric}: {row.note}" for row in rows if row.reason == Reason.NOT_FINITE),
        *_missing_steps(golden_rows),
        *_resume_cause(rows, courses),
        *_golden_cause(golden_rows, courses, loaded, restarted=run is None or run.crashes),
        *_resources(golden_rows),
        *_drift(golden_rows, changes),
    ]
    return [*dict.fromkeys(map(str, courses)), *dict.fromkeys(causes)]


def course(
    comparison: str, metric: str, differences: Differences, *, before: int | None = None
) -> Course | None:
    """The course of a metric; None if all steps are identical. ``before``: the last step before the compared
    ones that is known to be identical (the one that phase 2 loaded).
    """
    first = differences.first()
    if first is None:
        return None
    largest = int(differences.ulp.max())
    return Course(
        comparison=comparison,
        metric=metric,
        identical_to=int(differences.steps[first - 1]) if first else before,
        first=int(differences.steps[first]),
        ulp=largest if largest >= 0 else None,
        trend=trend(differences.relative[first:]),
    )


def trend(gaps: np.ndarray) -> str | None:
    """The trend of relative differences (float64, shape (n,), in order of step); None if they are too few."""
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


def _missing_steps(rows: list[Row]) -> list[str]:
    return [
        f"{row.metric}: {row.note}: the run ended early, or did not log it"
        for row in rows
        if not row.passed and row.reason == Reason.STEP_MISSING
    ][:1]


def _resume_cause(rows: list[Row], courses: list[Course]) -> list[str]:
    causes = [row.note for row in rows if row.reason in (Reason.NOTHING_LOADED, Reason.NOTHING_KILLED)]
    digests = [row for row in rows if row.metric.startswith(STATE_LABEL)]
    state = [row for row in digests if not row.passed]
    diverging = _diverging(rows, courses, RESUME)
    if not diverging and not state:
        return causes
    first = min((course.first for course in diverging), default=None)
    which = ", ".join(f"{row.metric.removeprefix(STATE_LABEL)} ({row.note})" for row in state)
    hint = f": {which}" if which else UNREPEATED if digests else ""
    begin = _diverges(first - 1, first) if first is not None else "values are identical"
    return [*causes, f"{begin}: the restart did not restore all state{hint}"]


def _golden_cause(
    rows: list[Row], courses: list[Course], loaded: int | None, *, restarted: bool
) -> list[str]:
    diverging = _diverging(rows, courses, GOLDEN)
    causes = []
    verdicts = {row.metric: row.verdict for row in rows}
    if verdicts.get(LM_LOSS.name) == EXACT and verdicts.get(NUM_ZEROS.name) in (REGRESSION, DRIFT):
        causes.append("lm loss identical, num-zeros differ: only the gradients changed, not the forward pass")
    if not diverging:
        return causes
    earliest = min(diverging, key=lambda course: course.first)
    last = earliest.identical_to
    cause = f"what step {earliest.first} brings: data, schedule, a rare branch, or chance"
    if last is None:
        cause = "initialisation, data or environment"
    elif restarted:
        cause = (
            f"the restart did not restore all state, if there was one at step {last}; otherwise what step "
            f"{earliest.first} brings: data, schedule, a rare branch"
        )
    elif last == loaded:
        cause = "saving the checkpoint changed the state"
    return [*causes, f"{earliest.begin}: {cause}"]


def _diverging(rows: list[Row], courses: list[Course], comparison: str) -> list[Course]:
    """The courses of the deterministic metrics whose rows failed."""
    rows = [row for row in rows if row.comparison == comparison and row.verdict == REGRESSION]
    failed = {row.metric for row in rows if _deterministic(row)}
    return [course for course in courses if course.comparison == comparison and course.metric in failed]


def _diverges(last: int, first: int) -> str:
    return f"identical through step {last}, diverges at step {first}"


def _resources(rows: list[Row]) -> list[str]:
    """Sentences on times and memory outside their tolerance."""
    loss = next((row.verdict for row in rows if row.metric == LM_LOSS.name), None)
    ending = {EXACT: "loss is identical", DRIFT: "loss is within tolerance"}.get(loss, "loss differs too")
    causes = []
    for row in rows:
        change = metric_named(row.metric).kind.change
        if change is None or row.rel is None or row.reason in (Reason.NOT_MEASURED, Reason.STAYS_AT_0):
            continue
        more, less, about = change
        if row.verdict == REGRESSION:
            causes.append(f"{_amount(row)} {more} and {ending}: {about}")
        elif row.verdict == IMPROVEMENT:
            causes.append(f"{_amount(row)} {less}: an improvement, record a new card to keep it")
    return causes


def _amount(row: Row) -> str:
    percent = f"{100 * row.rel:.0f} %" if row.rel >= 0.01 else f"{100 * row.rel:.2g} %"
    if row.median_of is None:
        return f"{row.metric} at step {row.worst_step} is {percent}"
    part = metric_named(row.metric).part
    steps = f"{part} of steps" if part else "steps"
    return f"{steps} {row.median_of[0]} to {row.median_of[1]} are {percent}"


def _drift(rows: list[Row], changes: list[FieldChange]) -> list[str]:
    drifting = [row for row in rows if row.verdict == DRIFT and _deterministic(row)]
    if not drifting or not all(row.passed for row in rows):
        return []
    changed = ", ".join(str(change) for change in changes if change.software_or_hardware)
    if changed:
        return [f"all within tolerance and the environment changed ({changed}): drift, record a new card"]
    return ["all within tolerance of a card that is compared approximately: drift"]


def _deterministic(row: Row) -> bool:
    return row.check != CHECK_EQUAL and metric_named(row.metric).kind.deterministic
