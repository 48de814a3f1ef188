"""Several cases in one session: which are run, and the table at the end.

Only the standard library is imported: the noxfile reads this.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.exits import PASSED, UsageError

HEAD = ("case", "verdict", "seconds", "first difference")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a case of the session ended. ``exit_code``: None where it was skipped, for the ``reason`` told."""

    case: str
    exit_code: int | None
    seconds: float = 0.0
    run_dir: Path | None = None
    reason: str = ""


def choose(cases: Sequence[str], only: Sequence[str]) -> list[str]:
    """The cases that are named, in their usual order; all of them when none is.

    Errors: ``UsageError`` for a name that is no case.
    """
    for name in only:
        if name not in cases:
            close = difflib.get_close_matches(name, cases, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise UsageError(f"--only {name}: there is no such case.{hint} Cases: {', '.join(cases)}")
    return [case for case in cases if not only or case in only]


def table(outcomes: Sequence[Outcome], meanings: dict[int, str]) -> str:
    """A line a case: verdict in words, wall seconds, and the first row that failed with its step."""
    rows = [HEAD, *(_row(outcome, meanings) for outcome in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(outcome: Outcome, meanings: dict[int, str]) -> tuple[str, str, str, str]:
    if outcome.exit_code is None:
        return outcome.case, "skipped", "", outcome.reason
    verdict = "passed" if outcome.exit_code == PASSED else meanings[outcome.exit_code]
    return outcome.case, verdict, f"{outcome.seconds:.0f}", _first_difference(outcome.run_dir)


def _first_difference(run_dir: Path | None) -> str:
    report = run_dir / "report.json" if run_dir else None
    if report is None or not report.is_file():
        return ""
    failed = [row for row in json.loads(report.read_text())["rows"] if not row["passed"]]
    if not failed:
        return ""
    first = min(failed, key=lambda row: (row["first_step"] is None, row["first_step"] or 0))
    step = f" at step {first['first_step']}" if first["first_step"] is not None else ""
    return f"{first['comparison']}: {first['metric']}{step}"
