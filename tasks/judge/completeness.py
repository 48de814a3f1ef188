"""Completeness of a run: every trained step was logged.

A golden card may be sparse, a run may not: a comparison of the remaining steps would pass.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tasks.cases.case import last_iteration
from tasks.cases.metrics import interval, metric_named
from tasks.judge.restart_evidence import loaded_iteration
from tasks.judge.rows import RESTART, Reason, Row, and_more
from tasks.records.run import Run


def unlogged_rows(run: Run, steps: tuple[int, int] | None = None) -> list[Row]:
    """A failing row for each phase and metric of the case with a missing step. ``steps``: first and last to
    check. A metric that a phase lacks altogether is reported by the comparisons.
    """
    rows = []
    for number, card, record in ((1, run.actual1, run.record1), (2, run.actual2, run.record2)):
        goes_on = number == 2 or run.goes_on_from_kept
        first = (loaded_iteration(record or {}) or 0) + 1 if goes_on else 1
        for name in run.metrics if card else ():
            if name not in card.metrics:
                continue
            lost = np.setdiff1d(_wanted(run, name, first), card.metrics[name].steps)
            if steps is not None:
                lost = lost[(lost >= steps[0]) & (lost <= steps[1])]
            if lost.size:
                rows.append(_row(number, name, lost))
    return rows


def _wanted(run: Run, name: str, first: int) -> np.ndarray:
    """The steps at which a phase that begins with step ``first`` must log a metric."""
    every = interval(name, run.model_args, subject=run.subject)
    if run.subject:
        first += metric_named(name).from_step - 1
    return np.arange(first + -first % every, last_iteration(run.model_args) + 1, every)


def _row(number: int, name: str, lost: np.ndarray) -> Row:
    details = {"phase": number, "step": lost[0], "more": and_more(lost.size)}
    row = Row.missing(RESTART, f"phase {number}: {name}", Reason.STEP_NOT_LOGGED, **details)
    return dataclasses.replace(row, first_step=int(lost[0]))
