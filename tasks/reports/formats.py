"""A verdict as table, JSON, JUnit and Markdown: the reports that ``tasks.diff`` writes into a run."""

from __future__ import annotations

import dataclasses
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.util.exits import UsageError

if TYPE_CHECKING:
    from tasks.judge.rows import Row
    from tasks.judge.run import Verdict

REPORTS = ("report.txt", "report.json", "report.xml", "report.md")
PICTURES = ("report.html", "curves.png")
# Mark and colour of a verdict.
STYLES = {
    "exact": ("=", "32"),
    "drift": ("~", "33"),
    "improvement": ("+", "36"),
    "not judged": ("·", "2"),
    "regression": ("✗", "1;31"),
    "missing": ("✗", "1;31"),
}
FORMATS = ("table", "json", "markdown", "junit", "html")


def write_reports(verdict: Verdict, directory: Path) -> None:
    """Write ``REPORTS`` into a run directory."""
    from tasks.util.files import write_atomically

    for name, form in zip(REPORTS, (as_text, as_json, as_junit, as_markdown), strict=True):
        write_atomically(directory / name, form(verdict))


def forget_reports(directory: Path, names: Sequence[str] = (*REPORTS, *PICTURES)) -> None:
    """Remove the reports of an earlier comparison: if the next one fails, they would still show a verdict.

    Raises:
        UsageError: a report cannot be removed.
    """
    for name in names if (directory / "case.json").is_file() else ():
        path = directory / name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(
                f"{path}: cannot be removed ({error.strerror}): judge a copy of the run"
            ) from None


def as_text(verdict: Verdict, *, colour: bool = False) -> str:
    """For a terminal or a log: what differs in the fingerprints, the table, what it means."""
    parts = [_heading(verdict), *_changes(verdict), "", _table(verdict, "simple", colour=colour), ""]
    parts += row_notes(verdict)
    parts += [f"- {sentence}" for sentence in verdict.sentences]
    parts += verdict.notes
    parts.append(_conclusion(verdict, colour=colour))
    return "\n".join(parts) + "\n"


def as_markdown(verdict: Verdict) -> str:
    """For a pull request."""
    parts = [f"### {_heading(verdict)}", "", f"**{_conclusion(verdict)}**", ""]
    parts += [f"- {line}" for line in _changes(verdict)]
    parts += [f"- {sentence}" for sentence in verdict.sentences]
    parts += [f"- {note}" for note in row_notes(verdict)]
    return "\n".join([*parts, "", _table(verdict, "github"), "", *verdict.notes]) + "\n"


def as_json(verdict: Verdict) -> str:
    """The whole verdict. Numbers have ``repr`` precision; a value that is not finite is a string or null."""
    content = {
        "passed": verdict.passed,
        "exit_code": verdict.exit_code,
        "title": verdict.title,
        "policy": verdict.policy,
        "checks": list(verdict.checks),
        "steps": list(verdict.steps) if verdict.steps else None,
        "error": verdict.error,
        "fingerprint_changes": [dataclasses.asdict(change) for change in verdict.changes],
        "triage": verdict.sentences,
        "notes": verdict.notes,
        "golden_card": verdict.golden_card.name if verdict.golden_card else None,
        "golden_file": str(verdict.golden_file.resolve()) if verdict.golden_file else None,
        "rows": [_json_row(row) for row in verdict.rows],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_junit(verdict: Verdict) -> str:
    """JUnit XML, a test case a row; an input error is a test case of its own."""
    suite = ElementTree.Element("testsuite", name=_plain(verdict.title))
    failures = errors = skipped = 0
    for row in verdict.rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=row.comparison, name=_plain(f"{row.metric} ({row.check})")
        )
        if not row.judged:
            skipped += 1
            ElementTree.SubElement(case, "skipped", message=_plain(row.note or "not judged"))
        elif not row.passed:
            failures += 1
            failure = ElementTree.SubElement(case, "failure", type=row.verdict, message=_plain(_failure(row)))
            failure.text = _plain("\n".join(verdict.sentences))
    if verdict.error:
        errors = 1
        case = ElementTree.SubElement(suite, "testcase", classname="input", name="input")
        ElementTree.SubElement(case, "error", type="UsageError", message=_plain(verdict.error))
    elif not verdict.passed and not failures:
        failures = 1
        case = ElementTree.SubElement(suite, "testcase", classname="input", name="something was compared")
        ElementTree.SubElement(case, "failure", type="missing", message="nothing was judged")
    counts = {"tests": len(suite), "failures": failures, "errors": errors, "skipped": skipped}
    suite.attrib.update({name: str(count) for name, count in counts.items()})
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def cells(row: Row) -> list[str]:
    """A row as the table shows it, in the order of ``HEADERS``."""
    return [text(row) for _, text in COLUMNS.values()]


def row_notes(verdict: Verdict, *, all_rows: bool = False) -> list[str]:
    """The notes of the rows that are worth a line below the table, or of all."""
    return [
        f"{row.comparison}: {row.metric}: {row.note}"
        for row in verdict.rows
        if row.note and (all_rows or not row.passed or row.verdict in ("drift", "improvement"))
    ]


def _table(verdict: Verdict, form: str, *, colour: bool = False) -> str:
    from tabulate import tabulate

    lines = [cells(row) for row in verdict.rows]
    if colour:
        for line, row in zip(lines, verdict.rows, strict=True):
            line[-1] = _coloured(line[-1], STYLES[row.verdict][1])
    sides = [side for side, _ in COLUMNS.values()] if lines else None
    return tabulate(lines, headers=HEADERS, tablefmt=form, colalign=sides, disable_numparse=True)


def _heading(verdict: Verdict) -> str:
    steps = f" · steps {verdict.steps[0]}-{verdict.steps[1]} only" if verdict.steps else ""
    return f"{verdict.title} · policy {verdict.policy}{steps}"


def _changes(verdict: Verdict) -> list[str]:
    return [f"fingerprint differs: {change}" for change in verdict.changes]


def _conclusion(verdict: Verdict, *, colour: bool = False) -> str:
    failed = [row for row in verdict.rows if not row.passed]
    if verdict.passed:
        text = f"PASSED: {sum(row.judged for row in verdict.rows)} rows judged"
    else:
        names = list(dict.fromkeys(f"{row.comparison}: {row.metric}" for row in failed))
        text = f"DOES NOT MATCH: {', '.join(names) or 'nothing was judged'}"
        text = f"NOT COMPARED: {verdict.error}" if verdict.error and verdict.exit_code == 2 else text
    return _coloured(text, "1;32" if verdict.passed else "1;31") if colour else text


def _failure(row: Row) -> str:
    where = f" at step {row.worst_step}" if row.worst_step is not None else ""
    numbers = (
        f": golden {_number(row.golden)}, actual {_number(row.actual)}{where}"
        if row.golden is not None
        else ""
    )
    first = f", first at step {row.first_step}" if row.first_step is not None else ""
    return f"{row.verdict}{numbers}{first}{'; ' + row.note if row.note else ''}"


def _json_row(row: Row) -> dict[str, object]:
    fields = {**vars(row), "passed": row.passed, "note": row.note}
    fields["reason"] = row.reason.name.lower() if row.reason else None
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in fields.items()
        if name not in ("details", "remarks", "median_of")
    }


def _number(value: float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


def _short(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.3g}"


def _coloured(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m"


def _plain(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(character for character in text if character >= " " or character in "\n\t")


# Alignment and text of each column.
COLUMNS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "comparison": ("left", lambda row: row.comparison),
    "metric": ("left", lambda row: row.metric),
    "check": ("left", lambda row: row.check),
    "steps": ("left", lambda row: row.steps),
    "first diff": ("right", lambda row: _number(row.first_step)),
    "worst": ("right", lambda row: _number(row.worst_step)),
    "golden": ("right", lambda row: _number(row.golden)),
    "actual": ("right", lambda row: _number(row.actual)),
    "abs": ("right", lambda row: _short(row.abs)),
    "rel": ("right", lambda row: _short(row.rel)),
    "ulp": ("right", lambda row: _number(row.ulp)),
    "tolerance": ("right", lambda row: _short(row.tolerance)),
    "verdict": ("left", lambda row: f"{STYLES[row.verdict][0]} {row.verdict}"),
}
HEADERS = tuple(COLUMNS)
