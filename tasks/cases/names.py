"""What the menu says of each case: from the text of its file, before any environment is made.

Only the standard library is imported: the noxfile reads this.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tasks.util.files import REPOSITORY

_WORD = r"""["']?([A-Za-z0-9_.-]+)"""


def case_names(root: Path = REPOSITORY) -> list[str]:
    """All cases, sorted; one whose file is a link to nothing, too, which would be missed by nobody."""
    folders = root.glob("test_cases/*")
    return sorted(path.name for path in folders if os.path.lexists(path / "model_config.yaml"))


def file_of(case: str, root: Path = REPOSITORY) -> Path:
    return root / "test_cases" / case / "model_config.yaml"


def text_of(case: str, root: Path = REPOSITORY) -> str:
    """The file of a case, without what it inherits; one that cannot be read is told when it is run."""
    try:
        return file_of(case, root).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def purpose(case: str, root: Path = REPOSITORY) -> str:
    """What the case is for: how the comment that opens its file begins."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), text_of(case, root).splitlines())
    return re.split(r"[.:;](?= |$)", " ".join(line.lstrip("# ") for line in comment))[0] or "One case"


def needs_data(case: str, root: Path = REPOSITORY) -> bool:
    """Whether the case waits for a data set that nobody has pointed to."""
    for text in _texts(case, root):
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        if any("${DATA_PATH}" in line for line in lines):
            return not os.environ.get("DATA_PATH")
        if any("--data-path:" in line for line in lines):
            return False
    return False


def golden_case(case: str, root: Path = REPOSITORY) -> str:
    """The case whose golden cards hold for it, mostly itself."""
    return _said("GOLDEN_CARD", case, root) or case


def records_cards(case: str, root: Path = REPOSITORY) -> bool:
    """Whether the case has golden cards of its own, and its data are here."""
    return golden_case(case, root) == case and not needs_data(case, root)


def type_of(case: str, root: Path = REPOSITORY) -> str:
    """Its TEST_TYPE, or that of the case it inherits from."""
    return _said("TEST_TYPE", case, root) or "regular"


def _said(key: str, case: str, root: Path) -> str | None:
    """The word behind a key, in the file of the case or of one that it inherits from."""
    said = (re.search(rf"^{key}: *{_WORD}", text, re.MULTILINE) for text in _texts(case, root))
    return next((found[1] for found in said if found), None)


def _texts(case: str, root: Path) -> Iterator[str]:
    """The file of the case, then of those that it inherits from; the steps say what is wrong with these."""
    known, seen = case_names(root), [case]
    while True:
        text = text_of(seen[-1], root)
        yield text
        base = re.search(rf"^INHERIT: *{_WORD}", text, re.MULTILINE)
        if base is None or base[1] in seen or base[1] not in known:
            return
        seen.append(base[1])


# ---- nox -s regress -- --list ----
