"""Quarantine: failures of a case do not count until a day; owner, reason and day are in its file.

An invalid entry is an error, never a quarantine.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path

from tasks.cases import yaml_reader
from tasks.util.exits import HANG, MISMATCH, PASSED, TRAINING_FAILED, UsageError

KEY = "QUARANTINE"
KEYS = ("OWNER", "REASON", "UNTIL")
LONGEST_DAYS = 90
EXCUSED = (PASSED, MISMATCH, TRAINING_FAILED, HANG)  # not a bad file, a missing card, an unfit machine


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """``until``: the last day on which a failure does not count."""

    owner: str
    reason: str
    until: datetime.date

    def holds(self, today: datetime.date) -> bool:
        return today <= self.until

    def as_json(self, today: datetime.date) -> dict[str, object]:
        """JSON for the list of cases and the history of a suite."""
        content = {"owner": self.owner, "reason": self.reason, "until": self.until.isoformat()}
        return {**content, "ended": not self.holds(today)}


def faults(entry: object, today: datetime.date) -> list[str]:
    """Errors in the value of ``QUARANTINE``, a line each."""
    if not isinstance(entry, dict):
        return [f"{KEY}: must be a mapping of {', '.join(KEYS)}"]
    found = [f"{KEY}.{key}: unknown key. Known: {', '.join(KEYS)}." for key in entry if key not in KEYS]
    for key in KEYS:
        value = entry.get(key)
        if key not in entry:
            found.append(f"{KEY}.{key}: is missing")
        elif not isinstance(value, str) or not value.strip():
            found.append(f"{KEY}.{key}: {value!r} must be text")
    if found:
        return found
    until, longest = _day(entry["UNTIL"]), today + datetime.timedelta(days=LONGEST_DAYS)
    if until is None:
        return [f"{KEY}.UNTIL: {entry['UNTIL']!r} is no day; write for example {today}"]
    return [f"{KEY}.UNTIL: {until} is more than {LONGEST_DAYS} days ahead; at most {longest}"] * (
        until > longest
    )


def _day(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else None
    except ValueError:
        return None


def read(path: Path, today: datetime.date) -> Quarantine | None:
    """The quarantine in a case's own file; it is not inherited.

    Raises:
        UsageError: the entry is invalid.
    """
    try:
        content = yaml_reader.read_mapping(path)
    except UsageError:  # reported when the case is run, which then fails and counts
        return None
    if KEY not in content:
        return None
    entry = content[KEY]
    if found := faults(entry, today):
        raise UsageError(f"{path}: {'; '.join(found)}")
    return Quarantine(owner=entry["OWNER"], reason=entry["REASON"], until=_day(entry["UNTIL"]))
