"""The policy of Megatron-LM's functional-test comparator, reproduced.

Source of the rules: Megatron-LM, ``tests/functional_tests/python_test_utils`` (``common.py`` and
``test_pretraining_regular_pipeline.py``, August 2026). They are looser than the strict policy: one step in a
hundred may have any value, and a "nan" in a card matches a step that is missing in the run.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tasks.cases.megatron_lm_case import DEFAULT_METRICS
from tasks.cases.metrics import metric_named
from tasks.judge.compare import compare, step_text
from tasks.judge.rows import CHECK_APPROXIMATE, CHECK_EXACT, DRIFT, EXACT, REGRESSION, Reason, Row
from tasks.judge.strict import median_of, steady_steps
from tasks.records.card import Card, Metric

# The metrics that it checks. Deterministic ones have the exact check besides the approximate one.
LOSSES = ("lm loss", "mtp_1 loss", "mtp_2 loss", "total loss")
CHECKED = ("iteration-time", "mem-allocated-bytes", "mem-max-allocated-bytes", *LOSSES, "num-zeros")


def decide(golden: Metric | None, actual: Metric | None, *, name: str, check: str) -> bool | None:
    """True when Megatron-LM passes the metric; None when it finds a value missing, which fails there."""
    if golden is None or actual is None or golden.steps.size == 0:
        return None
    relative = _relative(name, check)
    steps = golden.steps
    if metric_named(name).kind.median:
        steps = steady_steps(steps[np.isfinite(golden.values)])
        if steps.size == 0:
            return None
        expected, obtained = (np.array([median]) for median in _medians(golden, actual, steps))
    else:
        expected, obtained = golden.values, _values_at(actual, steps)
    close = np.isclose(obtained, expected, rtol=relative, atol=0.0)
    if check == CHECK_EXACT or close.size == 1:
        return bool(close.all())
    excused = min(max(close.size // 100, 1), 50)
    # The formula as it is there: its rounding matters at some lengths (with 3 steps none is excused).
    return bool(np.mean(close) >= 1 - excused / close.size)


def judge_cards(
    comparison: str,
    golden: Card,
    actual: Card,
    *,
    metrics: tuple[str, ...] | None = None,
    checks: tuple[str, ...],
) -> list[Row]:
    """One row per metric and check. ``metrics``: METRICS of a case; default: all that a card has and
    Megatron-LM checks. A metric without a check is shown, not judged.
    """
    names = metrics or tuple(name for name in CHECKED if name in golden.metrics or name in actual.metrics)
    rows = []
    for name in names or DEFAULT_METRICS:
        pair = golden.metrics.get(name), actual.metrics.get(name)
        if name not in CHECKED:
            row = Row.shown(comparison, name, Reason.NO_CHECK)
            rows.append(dataclasses.replace(row, **_shown(*pair)))
            continue
        for check in (CHECK_EXACT, CHECK_APPROXIMATE):
            if check in checks and (check == CHECK_APPROXIMATE or metric_named(name).kind.deterministic):
                rows.append(_row(comparison, name, *pair, check))
    return rows


def _row(comparison: str, name: str, golden: Metric | None, actual: Metric | None, check: str) -> Row:
    if golden is not None and actual is not None and actual.full_precision and not golden.full_precision:
        actual = actual.rounded()
    decision = decide(golden, actual, name=name, check=check)
    row = Row.missing(comparison, name, Reason.NO_USABLE_VALUE, check=check)
    shown = _shown(golden, actual, median=metric_named(name).kind.median)
    row = dataclasses.replace(row, tolerance=_relative(name, check), **shown)
    if decision is None:
        return row
    verdict = REGRESSION if not decision else EXACT if row.first_step is None and not row.abs else DRIFT
    missing = np.setdiff1d(golden.steps, actual.steps, assume_unique=True)
    if missing.size:
        return row.because(verdict, Reason.COUNTS_AS_INFINITY, count=missing.size, step=missing[0])
    return row.because(verdict, None if decision else Reason.DIFFERS)


def _relative(name: str, check: str) -> float:
    return metric_named(name).tolerance.relative if check == CHECK_APPROXIMATE else 0.0


def _shown(golden: Metric | None, actual: Metric | None, *, median: bool = False) -> dict[str, object]:
    if golden is None or actual is None:
        return {}
    if median:
        steps = steady_steps(golden.steps[np.isfinite(golden.values)])
        if steps.size == 0:
            return {}
        expected, obtained = _medians(golden, actual, steps)
        finite = np.isfinite(obtained)
        return {
            **median_of(steps),
            "golden": expected,
            "actual": obtained if finite else "inf",
            "abs": abs(obtained - expected) if finite else None,
            "rel": abs(obtained - expected) / abs(expected) if finite and expected else None,
        }
    differences = compare(golden, actual)
    return {"steps": step_text(golden.steps), **differences.shown()}


def _medians(golden: Metric, actual: Metric, steps: np.ndarray) -> tuple[float, float]:
    with np.errstate(invalid="ignore"):
        return float(np.median(_values_at(golden, steps))), float(np.median(_values_at(actual, steps)))


def _values_at(metric: Metric, steps: np.ndarray) -> np.ndarray:
    """Values at these steps, float64 (n,); infinity where the metric has none, as in Megatron-LM."""
    if metric.steps.size == 0:
        return np.full(steps.size, np.inf)
    found = np.minimum(np.searchsorted(metric.steps, steps), metric.steps.size - 1)
    return np.where(metric.steps[found] == steps, metric.values[found], np.inf)
