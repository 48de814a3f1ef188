"""Names and purposes of the cases, from their folders and first comment lines.

Imports the standard library only: nox lists its sessions with it before there is an environment.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from tasks.util.files import REPOSITORY

CASE_FILE = "model_config.yaml"


def case_names(root: Path = REPOSITORY) -> list[str]:
    """All cases, sorted; also one whose file is a broken link, so that its absence is reported."""
    return sorted(path.name for path in root.glob("test_cases/*") if os.path.lexists(path / CASE_FILE))


def file_of(case: str, root: Path = REPOSITORY) -> Path:
    return root / "test_cases" / case / CASE_FILE


def purpose(case: str, root: Path = REPOSITORY) -> str:
    """The beginning of the comment that opens the case's file."""
    try:
        text = file_of(case, root).read_text(encoding="utf-8", errors="replace")
    except OSError:  # reported when the case is run
        text = ""
    comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return re.split(r"[.:;](?= |$)", " ".join(line.lstrip("# ") for line in comment))[0] or "One case"
