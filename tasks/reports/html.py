"""report.html: one file without network: table, curves, fingerprint difference, log excerpts."""

from __future__ import annotations

import base64
import dataclasses
import html
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.reports.formats import HEADERS, PICTURES, cells, forget_reports

if TYPE_CHECKING:
    from tasks.judge.run import Options, Verdict

EXCERPT_LINES = 25
LARGEST_EXCERPT_BYTES = 200_000
_ALARMING = re.compile(r"error|exception|traceback|fault|abort|killed|nan\b", re.IGNORECASE)

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.state { display: inline-block; padding: .3rem .8rem; border-radius: .4rem; font-weight: 600; color: #fff; }
.passed { background: #137333; } .failed { background: #b3261e; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .4rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
} th:nth-child(-n+4), td:nth-child(-n+4), th:last-child, td:last-child { text-align: left; } th { background:
var(--soft); } tr.bad td { background: #b3261e22; } tr.bad td:last-child { font-weight: 700; } tr.quiet td {
opacity: .65; } .fields td, .fields th { text-align: left; } img { max-width: 100%; background: #fff; } pre {
background: var(--soft); padding: .8rem; overflow-x: auto; font-size: 12px; }
"""


def as_html(verdict: Verdict, *, picture: bytes | None = None) -> str:
    """The whole page. ``picture``: curves as PNG; drawn here when it is not given."""
    if picture is None:
        from tasks.reports.curves import draw

        picture = draw(verdict)
    state = "passed" if verdict.passed else "failed"
    text = "PASSED" if verdict.passed else "DOES NOT MATCH" if not verdict.error else "NOT COMPARED"
    body = [
        f"<h1>{_escape(verdict.title)}</h1>",
        f'<p><span class="state {state}">{text}</span> policy {_escape(verdict.policy)}{_steps(verdict)}</p>',
        f"<p><b>{_escape(verdict.error)}</b></p>" if verdict.error else "",
        _list("What it most likely means", verdict.sentences),
        _fingerprint(verdict),
        f'<h2>Comparison</h2><div class="wide">{_table(verdict)}</div>',
        _list("Notes", [*_row_notes(verdict), *verdict.notes]),
        f'<h2>Curves</h2><img alt="curves of every metric" src="data:image/png;base64,{_base64(picture)}">',
        *_logs(verdict),
    ]
    head = f'<meta charset="utf-8"><title>{_escape(verdict.title)}</title><style>{STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n'
        + "\n".join(filter(None, body))
        + "\n</body></html>\n"
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
    """How the last ``tasks.diff`` judged this run, and with which card if one was given, so that picture and
    table agree.
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


def _table(verdict: Verdict) -> str:
    head = "".join(f"<th>{name}</th>" for name in HEADERS)
    lines = []
    for row in verdict.rows:
        kind = ' class="bad"' if not row.passed else "" if row.judged else ' class="quiet"'
        lines.append(f"<tr{kind}>" + "".join(f"<td>{_escape(cell)}</td>" for cell in cells(row)) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _fingerprint(verdict: Verdict) -> str:
    if not verdict.changes:
        return ""
    lines = "".join(
        f"<tr><td>{_escape(change.field)}</td><td>{_escape(change.golden or '')}</td>"
        f"<td>{_escape(change.actual or '')}</td></tr>"
        for change in verdict.changes
    )
    head = "<tr><th>field</th><th>golden card</th><th>this run</th></tr>"
    return (
        f'<h2>Fingerprint differences</h2><div class="wide"><table class="fields">{head}{lines}</table></div>'
    )


def _logs(verdict: Verdict) -> list[str]:
    if verdict.run is None:
        return []
    parts = []
    for phase in ("phase1", "phase2"):
        logs = sorted(
            (verdict.run.directory / phase).glob("rank*.log"), key=lambda path: (len(path.name), path.name)
        )
        excerpts = {path: log_excerpt(path) for path in logs}
        shown = [path for path in logs if _ALARMING.search(excerpts[path])] or logs[-1:]
        for path in shown:
            parts.append(f"<h2>{phase}/{_escape(path.name)}</h2><pre>{_escape(excerpts[path])}</pre>")
    return parts


def _row_notes(verdict: Verdict) -> list[str]:
    return [f"{row.comparison}: {row.metric}: {row.note}" for row in verdict.rows if row.note]


def _list(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{_escape(line)}</li>' for line in lines)}</ul>"


def _steps(verdict: Verdict) -> str:
    return f" · steps {verdict.steps[0]} to {verdict.steps[1]} only" if verdict.steps else ""


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _escape(text: str) -> str:
    return html.escape(str(text))
