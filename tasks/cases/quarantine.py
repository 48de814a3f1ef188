"""Quarantine: a case whose failure does not count until a day, with somebody who looks after it.

``QUARANTINE`` in a case's file says who, why and until when. A wrong entry is an error, never a quarantine.
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
# What a run shows is excused. A file that is wrong, a card that is not there, a machine that cannot are not.
EXCUSED = (PASSED, MISMATCH, TRAINING_FAILED, HANG)


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """``until``: the last day on which a failure does not count."""

    owner: str
    reason: str
    until: datetime.date

    def holds(self, today: datetime.date) -> bool:
        return today <= self.until

    def as_json(self, today: datetime.date) -> dict[str, object]:
        """For the list of cases and the record of a regress."""
        content = {"owner": self.owner, "reason": self.reason, "until": self.until.isoformat()}
        return {**content, "ended": not self.holds(today)}


def faults(entry: object, today: datetime.date) -> list[str]:
    """What is wrong with the value of ``QUARANTINE``, a line each."""
    if not isinstance(entry, dict):
        return [f"{KEY}: must be a mapping of {', '.join(KEYS)}"]
    found = [f"{KEY}.{key}: unknown key. Known: {', '.join(KEYS)}." for key in entry if key not in KEYS]
    for key in KEYS:
        value = entry.get(key)
        if key not in entry:
            found.append(f"{KEY}.{key}: is missing")
        elif not isinstance(value, str) or not value.strip():
            found.append(f"{KEY}.{key}: {value!r} must be text")
    return found or _faults_of_day(str(entry["UNTIL"]), today)


def _faults_of_day(text: str, today: datetime.date) -> list[str]:
    until = _day(text)
    if until is None:
        return [f"{KEY}.UNTIL: {text!r} is no day; write for example {today.isoformat()}"]
    longest = today + datetime.timedelta(days=LONGEST_DAYS)
    if until > longest:
        return [f"{KEY}.UNTIL: {text} is more than {LONGEST_DAYS} days ahead; at most {longest.isoformat()}"]
    return []


def _day(text: str) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else None
    except ValueError:
        return None


def read(path: Path, today: datetime.date) -> Quarantine | None:
    """The quarantine in a case's own file; that of a case which it inherits from is not its own.

    Raises:
        UsageError: the file has one that is wrong.
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
    return Quarantine(
        owner=entry["OWNER"], reason=entry["REASON"], until=datetime.date.fromisoformat(entry["UNTIL"])
    )
