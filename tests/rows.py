"""Rows of a verdict or of a run."""

from __future__ import annotations

from pathlib import Path

from tasks.judge.run import Options, Verdict, restart_and_resume_rows
from tasks.judge.strict import Row
from tasks.records.run import read_run


def rows_of(verdict: Verdict, comparison: str, metric: str) -> list[Row]:
    """The rows of a metric in a comparison."""
    return [row for row in verdict.rows if (row.comparison, row.metric) == (comparison, metric)]


def row_of(verdict: Verdict, comparison: str, metric: str) -> Row:
    """The one row of a metric in a comparison."""
    (row,) = rows_of(verdict, comparison, metric)
    return row


def failed_rows(run_dir: Path) -> set[tuple[str, str]]:
    """Comparison and metric of what failed."""
    rows = restart_and_resume_rows(read_run(run_dir), Options())
    assert {"state: rng", "loaded iteration"} < {row.metric for row in rows}
    return {(row.comparison, row.metric) for row in rows if not row.passed}
