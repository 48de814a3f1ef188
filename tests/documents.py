"""Fenced blocks of the documents."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tasks.util.files import REPOSITORY

TUTORIAL = REPOSITORY / "docs/tutorial.md"  # followed by test_tutorial.py


HARDWARE = re.compile(r"<!-- needs: .*\b(GPU|docker|Slurm|network)\b.* -->")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block. ``marked``: the comment before it says what it needs."""

    line: int
    language: str
    text: str
    marked: bool


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document."""
    found, before, opened = [], "", None
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if match := re.match(r" *```(.*)", line):
            if opened is None:
                opened = (number, match[1].strip(), bool(HARDWARE.fullmatch(before.strip())), [])
            else:
                begin, language, marked, lines = opened
                indent = min((len(text) - len(text.lstrip()) for text in lines if text.strip()), default=0)
                text = "\n".join(text[indent:] for text in lines)
                found.append(Block(line=begin, language=language, text=text, marked=marked))
                opened = None
        elif opened is not None:
            opened[3].append(line)
        before = line if line.strip() else before
    return found
