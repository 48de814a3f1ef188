"""The outcomes of several cases: selection, verdict of each, exit code and table of all."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from tasks.cases.quarantine import EXCUSED, Quarantine
from tasks.suite.steps import new_directory
from tasks.util.exits import CANNOT_RUN, MEANINGS, PASSED, UsageError
from tasks.util.suggestions import did_you_mean

HEAD = ("case", "verdict", "seconds", "first difference")
# States of a case; only one that ended has an exit code.
NOT_REACHED, RUNNING, INTERRUPTED = "not reached", "running", "interrupted"
SKIPPED, ENDED = "skipped", "ended"


def choose(cases: Sequence[str], only: Sequence[str]) -> list[str]:
    """The cases that are named, in their usual order; all if none is named.

    Raises:
        UsageError: an unknown name, or there is no case at all.
    """
    if not cases:
        raise UsageError("there is no case to run: test_cases/ holds no <case>/model_config.yaml")
    for name in only:
        if name not in cases:
            hint = did_you_mean(name, cases, listed="Cases")
            raise UsageError(f"--only {name}: there is no such case. {hint}")
    return [case for case in cases if not only or case in only]


def run_directory(case: str, options: argparse.Namespace) -> Path:
    """The run directory of a case: below ``--run-dir``; with ``--rerun-failed`` beside the failed run."""
    if not options.run_dir:
        return new_directory(case)
    run_dir, number = options.run_dir / case, 1
    while options.rerun_failed and run_dir.exists():
        number += 1
        run_dir = options.run_dir / f"{case}-{number}"
    return run_dir


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """State and result of a case. ``reason``: why it was skipped."""

    case: str
    state: str = NOT_REACHED
    exit_code: int | None = None
    seconds: float = 0.0
    run_dir: Path | None = None
    reason: str = ""
    quarantine: Quarantine | None = None

    def quarantined(self, today: datetime.date) -> bool:
        """True when a failure of the case does not count today."""
        return (
            self.quarantine is not None
            and self.quarantine.holds(today)
            and self.state == ENDED
            and self.exit_code in EXCUSED
        )

    def failed(self, today: datetime.date) -> bool:
        """True when the case ended with a failure that counts."""
        return self.state == ENDED and self.exit_code != PASSED and not self.quarantined(today)

    def verdict(self, today: datetime.date) -> str:
        """The state, or the meaning of the exit code."""
        if self.state != ENDED:
            return self.state
        meaning = "passed" if self.exit_code == PASSED else MEANINGS[self.exit_code]
        return f"quarantined: {meaning}" if self.quarantined(today) else meaning

    def first_difference(self) -> str:
        """The first failed row of its report, with its step; empty if the report has another exit code, as
        that of an earlier run in the same folder.
        """
        if self.state != ENDED or self.exit_code == PASSED or self.run_dir is None:
            return ""
        try:
            report = json.loads((self.run_dir / "report.json").read_text(encoding="utf-8"))
            failed = [row for row in report["rows"] if not row["passed"]]
            if not failed or report["exit_code"] != self.exit_code:
                return ""
            first = min(failed, key=lambda row: (row["first_step"] is None, row["first_step"] or 0))
            step = f" at step {first['first_step']}" if first["first_step"] is not None else ""
            return f"{first['comparison']}: {first['metric']}{step}"
        except (OSError, ValueError, KeyError, TypeError):  # the table goes on without it
            return ""


def exit_code(outcomes: Sequence[CaseResult], today: datetime.date, *, require: bool) -> int:
    """The exit code of all cases: that of the first one, in the table's order, with a failure that counts.

    A pass needs at least one case that ended and, besides skipped ones, none that did not; with ``require``
    every case must have ended.
    """
    codes = [outcome.exit_code for outcome in outcomes if outcome.failed(today)]
    states = [outcome.state for outcome in outcomes]
    whole = ENDED in states and set(states) <= ({ENDED} if require else {ENDED, SKIPPED})
    return codes[0] if codes else PASSED if whole else CANNOT_RUN


def table(outcomes: Sequence[CaseResult], today: datetime.date) -> str:
    """A line a case: verdict, wall seconds, first difference; below it the notes on quarantine."""
    rows = [_row(outcome, today) for outcome in outcomes]
    lines = tabulate(rows, headers=HEAD, tablefmt="plain", disable_numparse=True).splitlines()
    return "\n".join(
        [*map(str.rstrip, lines), *(note for outcome in outcomes for note in _notes(outcome, today))]
    )


def _row(outcome: CaseResult, today: datetime.date) -> tuple[str, str, str, str]:
    seconds = f"{outcome.seconds:.0f}" if outcome.state == ENDED else ""
    return outcome.case, outcome.verdict(today), seconds, outcome.reason or outcome.first_difference()


def _notes(outcome: CaseResult, today: datetime.date) -> list[str]:
    held = outcome.quarantine
    if held is None:
        return []
    if not held.holds(today):
        return [
            f"{outcome.case}: its quarantine ended on {held.until} ({held.owner}: {held.reason}): it counts"
        ]
    if outcome.failed(today):
        return [f"{outcome.case}: in quarantine, which does not excuse this: {MEANINGS[outcome.exit_code]}"]
    if outcome.quarantined(today) and outcome.exit_code == PASSED:
        return [f"{outcome.case}: passed in quarantine: take it out ({held.owner}: {held.reason})"]
    return [f"{outcome.case}: in quarantine until {held.until} ({held.owner}: {held.reason}): does not count"]
