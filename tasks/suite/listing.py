"""``nox -s regress -- --list``: the cases, and whether each runs here."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

from tasks.cases import quarantine
from tasks.cases.names import file_of, needs_data, purpose, type_of
from tasks.machine import platforms
from tasks.reports.columns import aligned
from tasks.util.exits import TaskError
from tasks.util.files import REPOSITORY

HEAD = ("case", "type", "here", "quarantine", "purpose")


def reason_to_skip(case: str, root: Path = REPOSITORY) -> str:
    """Why the case cannot be run here; empty when it can."""
    if type_of(case, root) == "frozen-resume" and platforms.on_gpus():
        return "its checkpoint is one of a CPU"
    return "DATA_PATH is not set" if needs_data(case, root) else ""


def entries(cases: Sequence[str], today: datetime.date, root: Path = REPOSITORY) -> list[dict[str, object]]:
    """One entry a case. ``platform``: None on a machine that can run none.

    Raises:
        UsageError: a quarantine that cannot be read.
    """
    platform = _platform()
    found = []
    for case in cases:
        held = quarantine.read(file_of(case, root), today)
        found.append(
            {
                "case": case,
                "purpose": purpose(case, root),
                "test_type": type_of(case, root),
                "platform": platform,
                "skipped": reason_to_skip(case, root) or None,
                "quarantine": held.as_json(today) if held else None,
            }
        )
    return found


def listing(cases: Sequence[str], today: datetime.date, *, as_json: bool, root: Path = REPOSITORY) -> str:
    """The cases as a table, or as a JSON array for the matrix of a CI service.

    Raises:
        UsageError: a quarantine that cannot be read.
    """
    found = entries(cases, today, root)
    if as_json:
        return json.dumps(found)
    return aligned([HEAD, *(_row(entry) for entry in found)])


def _row(entry: dict) -> tuple[str, ...]:
    here = f"skipped: {entry['skipped']}" if entry["skipped"] else entry["platform"] or "cannot run"
    held = entry["quarantine"]
    word = ("ended" if held["ended"] else "until") if held else ""
    quarantined = f"{word} {held['until']}, {held['owner']}: {held['reason']}" if held else ""
    return entry["case"], entry["test_type"], here, quarantined, entry["purpose"]


def _platform() -> str | None:
    try:
        return platforms.detect().name
    except TaskError:
        return None
