"""The record of a regress: a file with the outcome of each case, rewritten whenever one ends."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tasks.machine import platforms
from tasks.suite import listing, outcomes
from tasks.suite.outcomes import ENDED, INTERRUPTED, RUNNING, SKIPPED, CaseResult
from tasks.util.exits import PASSED, CannotRun, UsageError
from tasks.util.files import write_atomically

FILE = "regress.json"
RUNS = Path("runs")
# Options that change the run, or what it is compared with.
CHANGES = ("set", "rank_plugin", "data_path", "megatron_lm", "trainer", "baseline")


def path_for(options: argparse.Namespace) -> Path:
    """The path of the record of a regress with these options."""
    return (options.run_dir or RUNS) / FILE


def read(path: Path) -> list[dict]:
    """Rows of the newest regress, one a case.

    Raises:
        UsageError: there is no record, or it cannot be read.
    """
    if not path.is_file():
        raise UsageError(
            f"--rerun-failed: there is no {path} of an earlier regress: run nox -s regress first"
        )
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["cases"]
        rows = [{**row, "case": str(row["case"]), "verdict": str(row["verdict"])} for row in rows]
        if not all(type(row["exit_code"]) in (int, type(None)) for row in rows):
            raise TypeError
        return rows
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: is no record of a regress: remove it and run nox -s regress") from None


def run_conditions(options: argparse.Namespace) -> dict[str, object]:
    """Commit, kind of machine and changes by options: a pass is valid for these only."""
    given = vars(options)
    return {
        "commit": platforms.git_commit(),
        "environment": platforms.environment(),
        "platform": listing.platform_name() or "none",
        "changes": sorted(f"{name}={_text(given[name])}" for name in CHANGES if given.get(name)),
    }


def _text(value: object) -> str:
    return str([str(each) for each in value] if isinstance(value, list) else value)


def select(cases: Sequence[str], options: argparse.Namespace) -> list[str]:
    """The cases that the options select; none if ``--rerun-failed`` finds that all passed. A case that passed
    on another kind of machine, or with other options, runs again.

    Raises:
        UsageError: an unknown case; no record, or one with a removed case; nothing to run, and the record
            is of another commit or of uncommitted changes.
        CannotRun: nothing failed, but a case was skipped, which is not a pass.
    """
    if not options.rerun_failed:
        return outcomes.choose(cases, options.only)
    path = path_for(options)
    rows = {row["case"]: row for row in read(path)}
    if not rows:
        raise UsageError(f"{path}: is of a regress that ran no case: run nox -s regress")
    here = run_conditions(options)
    not_passed = [
        case
        for case, row in rows.items()
        if row["exit_code"] != PASSED
        or any(row.get(name) != here[name] for name in ("environment", "platform", "changes"))
    ]
    not_passed += [case for case in cases if options.require and case not in rows]
    if gone := [case for case in not_passed if case not in cases]:
        raise UsageError(f"{path}: {gone[0]} is to be run again, and is no case any more: run nox -s regress")
    if not_passed and all(case in rows and rows[case]["verdict"] == SKIPPED for case in not_passed):
        raise CannotRun(f"nothing failed in {path}, but this was skipped: {', '.join(not_passed)}")
    commits = {str(row.get("commit")) for row in rows.values()}
    if not not_passed and (commits != {here["commit"]} or not re.fullmatch(r"[0-9a-f]{40}", here["commit"])):
        raise UsageError(f"nothing failed in {path}, but it is not of this very commit: run nox -s regress")
    return [case for case in cases if case in not_passed]


class Record:
    """The outcomes of one regress, and its file. ``path``: None if another machine writes it. ``earlier``:
    rows of cases that do not run again. ``passed_with``: its ``run_conditions``.
    """

    def __init__(
        self,
        path: Path | None,
        outcomes: Iterable[CaseResult],
        *,
        earlier: Iterable[dict] = (),
        today: datetime.date,
        passed_with: Mapping[str, object],
    ) -> None:
        self._path = path
        self._today = today
        self._outcomes = {outcome.case: outcome for outcome in outcomes}
        self._earlier = [row for row in earlier if row["case"] not in self._outcomes]
        self._began = _now()
        self._passed_with = passed_with
        self._write()

    @property
    def outcomes(self) -> list[CaseResult]:
        """The outcomes in the order of the cases."""
        return list(self._outcomes.values())

    def note(self, case: str, **changes: object) -> CaseResult:
        """Change fields of the ``CaseResult`` of a case."""
        self._outcomes[case] = dataclasses.replace(self._outcomes[case], **changes)
        self._write()
        return self._outcomes[case]

    def close(self) -> None:
        """Mark cases that still run as interrupted."""
        for case in [outcome.case for outcome in self.outcomes if outcome.state == RUNNING]:
            self.note(case, state=INTERRUPTED)
        self._write(ended=_now())

    def _write(self, ended: str | None = None) -> None:
        if self._path is None:
            return
        rows = [*self._earlier, *(self._row(outcome) for outcome in self.outcomes)]
        rows.sort(key=lambda row: row["case"])
        content = {"began": self._began, "ended": ended, "cases": rows}
        write_atomically(self._path, json.dumps(content, indent=1) + "\n")

    def _row(self, outcome: CaseResult) -> dict[str, object]:
        held = outcome.quarantine
        return {
            "case": outcome.case,
            "verdict": outcome.verdict(self._today),
            "exit_code": outcome.exit_code,
            "counts": not outcome.quarantined(self._today),
            "seconds": round(outcome.seconds, 3) if outcome.state == ENDED else None,
            "run_dir": str(outcome.run_dir) if outcome.run_dir else None,
            "first_difference": outcome.first_difference() or None,
            "reason": outcome.reason or None,
            "quarantine": held.as_json(self._today) if held else None,
            **self._passed_with,
        }


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
