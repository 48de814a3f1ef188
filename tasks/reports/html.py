"""report.html: one file without network: table, curves, fingerprint difference, log excerpts."""

from __future__ import annotations

import base64
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.reports.formats import HEADERS, PICTURES, cells, forget_reports, row_notes

if TYPE_CHECKING:
    from tasks.judge.run import Options, Verdict

EXCERPT_LINES = 25
LARGEST_EXCERPT_BYTES = 200_000
_ALARMING = re.compile(r"error|exception|traceback|fault|abort|killed|nan\b", re.IGNORECASE)
TEMPLATE = Path(__file__).with_name("report.html.j2")


def as_html(verdict: Verdict, *, picture: bytes | None = None) -> str:
    """The whole page. ``picture``: curves as PNG; drawn here when it is not given."""
    import jinja2

    if picture is None:
        from tasks.reports.curves import draw

        picture = draw(verdict)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(TEMPLATE.name).render(
        verdict=verdict,
        state="PASSED" if verdict.passed else "NOT COMPARED" if verdict.error else "DOES NOT MATCH",
        headers=HEADERS,
        rows=[(row, cells(row)) for row in verdict.rows],
        notes=[*row_notes(verdict, all_rows=True), *verdict.notes],
        picture=base64.b64encode(picture).decode("ascii"),
        logs=_logs(verdict),
    )


def write_pictures(run_dir: Path, *, golden_file: Path | None = None) -> list[Path]:
    """Write curves.png and report.html into a run directory, whatever the verdict.

    Raises:
        UsageError: no run there, or one without values.
    """
    from tasks.judge.run import judge_run
    from tasks.reports.curves import draw
    from tasks.util.files import write_atomically

    forget_reports(run_dir, PICTURES)
    options, compared_with = _as_judged(run_dir)
    verdict = judge_run(run_dir, golden_file=golden_file or compared_with, options=options)
    picture = draw(verdict)
    written = {
        run_dir / "curves.png": picture,
        run_dir / "report.html": as_html(verdict, picture=picture).encode(),
    }
    for path, content in written.items():
        write_atomically(path, content)
    return list(written)


def log_excerpt(path: Path) -> str:
    """The part of a rank's log to look at: from the first alarming line of its end, else its last lines."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LARGEST_EXCERPT_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    for index, line in enumerate(lines):
        if _ALARMING.search(line):
            return "\n".join(lines[max(0, index - 2) : index + EXCERPT_LINES])
    return "\n".join(lines[-8:])


def _as_judged(run_dir: Path) -> tuple[Options, Path | None]:
    """Options of the last ``tasks.diff`` of this run, and the card that it was given, if any: picture and
    table have to agree.
    """
    from tasks.judge.run import MEGATRON, Options
    from tasks.util.files import read_json_object

    report = run_dir / "report.json"
    if not report.exists():
        return Options(), None
    content = read_json_object(report)
    steps, checks, card = (content.get(name) for name in ("steps", "checks", "golden_file"))
    whole = isinstance(steps, list) and len(steps) == 2 and all(type(step) is int for step in steps)
    options = Options(steps=tuple(steps) if whole else None)
    if content.get("policy") == MEGATRON:
        known = tuple(check for check in options.checks if isinstance(checks, list) and check in checks)
        options = dataclasses.replace(options, policy=MEGATRON, checks=known or options.checks)
    return options, Path(card) if isinstance(card, str) else None


def _logs(verdict: Verdict) -> list[tuple[str, str]]:
    """Name and excerpt of every rank's log that holds an alarming line; of a phase without one, of its last
    rank.
    """
    if verdict.run is None:
        return []
    parts = []
    for phase in ("phase1", "phase2"):
        logs = sorted(
            (verdict.run.directory / phase).glob("rank*.log"), key=lambda path: (len(path.name), path.name)
        )
        excerpts = {path: log_excerpt(path) for path in logs}
        shown = [path for path in logs if _ALARMING.search(excerpts[path])] or logs[-1:]
        parts += [(f"{phase}/{path.name}", excerpts[path]) for path in shown]
    return parts
