"""A verdict in any of its formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.reports.formats import as_json, as_junit, as_markdown, as_text

if TYPE_CHECKING:
    from tasks.judge.run import Verdict


def render(verdict: Verdict, form: str, *, colour: bool = False) -> str:
    """The verdict in one of ``FORMATS``."""
    if form == "json":
        return as_json(verdict)
    if form == "markdown":
        return as_markdown(verdict)
    if form == "junit":
        return as_junit(verdict)
    if form == "html":
        from tasks.reports.html import as_html

        return as_html(verdict)
    return as_text(verdict, colour=colour)
