"""``nox -s regress -- --list``: the cases, and which of them run here."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from tasks.cases import quarantine
from tasks.cases.loader import read_content
from tasks.cases.names import file_of, purpose
from tasks.machine import platforms
from tasks.util.exits import TaskError
from tasks.util.files import REPOSITORY

HEAD = ("case", "type", "here", "quarantine", "purpose")


def reason_to_skip(case: str, root: Path = REPOSITORY) -> str:
    """The reason why the case cannot run here; empty if it can, or if the run will report the error."""
    return _reason_to_skip(_content(case, root))


def entries(cases: Sequence[str], today: datetime.date, root: Path = REPOSITORY) -> list[dict[str, object]]:
    """One entry per case. ``platform``: None on a machine that cannot run cases.

    Raises:
        UsageError: an invalid quarantine.
    """
    platform = platform_name()
    found = []
    for case in cases:
        content, held = _content(case, root), quarantine.read(file_of(case, root), today)
        found.append(
            {
                "case": case,
                "purpose": purpose(case, root),
                "test_type": str(content.get("TEST_TYPE", "regular")),
                "platform": platform,
                "skipped": _reason_to_skip(content) or None,
                "quarantine": held.as_json(today) if held else None,
            }
        )
    return found


def listing(cases: Sequence[str], today: datetime.date, *, as_json: bool, root: Path = REPOSITORY) -> str:
    """The cases as a table, or as a JSON array for the matrix of a CI service.

    Raises:
        UsageError: an invalid quarantine.
    """
    found = entries(cases, today, root)
    if as_json:
        return json.dumps(found)
    rows = [_row(entry) for entry in found]
    return tabulate(rows, headers=HEAD, tablefmt="plain", disable_numparse=True)


def _content(case: str, root: Path) -> Mapping[str, object]:
    with contextlib.suppress(TaskError):  # reported when the case is run
        return read_content(case, root)
    return {}


def _reason_to_skip(content: Mapping[str, object]) -> str:
    if content.get("TEST_TYPE") == "frozen-resume" and platforms.on_gpus():
        return "its checkpoint is one of a CPU"
    values = [content.get(key) for key in ("MODEL_ARGS", "ENV_VARS", "PLATFORMS")]
    return "DATA_PATH is not set" if "${DATA_PATH}" in str(values) and not os.environ.get("DATA_PATH") else ""


def _row(entry: dict) -> tuple[str, ...]:
    here = f"skipped: {entry['skipped']}" if entry["skipped"] else entry["platform"] or "cannot run"
    held = entry["quarantine"]
    quarantined = (
        f"{'ended' if held['ended'] else 'until'} {held['until']}, {held['owner']}: {held['reason']}"
        if held
        else ""
    )
    return entry["case"], entry["test_type"], here, quarantined, entry["purpose"]


def platform_name() -> str | None:
    """The platform of this machine; None if no case can run here."""
    with contextlib.suppress(TaskError):  # reported by each case
        return platforms.detect().name
    return None
