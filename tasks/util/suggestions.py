"""The nearest known name for an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.6  # difflib's own


def nearest(word: str, known: Iterable[str], *, cutoff: float = CUTOFF) -> str | None:
    """The closest known name, None when none is close."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(word: str, known: Iterable[str], *, listed: str = "", cutoff: float = CUTOFF) -> str:
    """``Did you mean X?``, or the known names when none is close; with the heading ``listed``, both."""
    known = list(known)
    close = nearest(word, known, cutoff=cutoff)
    hint = f"Did you mean {close}?" if close else ""
    if close and not listed:
        return hint
    return f"{hint} {listed or 'Known'}: {', '.join(known) or 'none'}{'' if listed else '.'}".lstrip()
