"""Rules of style that no linter knows: docstrings begin with their subject, functions and files are short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.util.files import REPOSITORY

MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 400, 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FILES = sorted([*(REPOSITORY / "tasks").rglob("*.py"), *REPOSITORY.glob("nox*.py")])


def violations(path: Path, root: Path = REPOSITORY) -> Iterator[str]:
    """A line for each rule that a file breaks."""
    text, file = path.read_text(), path.relative_to(root)
    if text.count("\n") > MOST_LINES_OF_A_FILE:
        yield f"{file} has {text.count(chr(10))} lines, at most {MOST_LINES_OF_A_FILE} are allowed"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)):
            continue
        place = f"{file}:{getattr(node, 'lineno', 1)}"
        docstring = ast.get_docstring(node) or ""
        if re.match(r"(What|Which|Whether|Why|How|Where|Who)\b(?!.*\?)", docstring):
            yield f"{place} begins its docstring with a question word: {docstring.splitlines()[0]}"
        if "Errors:" in docstring:
            yield f'{place} says "Errors:" for "Raises:"'
        if isinstance(node, FUNCTIONS) and node.end_lineno - node.lineno > MOST_LINES_OF_A_FUNCTION:
            yield f"{place} {node.name} has {node.end_lineno - node.lineno} lines"


def test_every_file_follows_the_rules() -> None:
    assert len(FILES) > 80
    assert [line for path in FILES for line in violations(path)] == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('"""What a card is."""\n', "begins its docstring with a question word: What a card is."),
        ('def f():\n    """Read it.\n\n    Errors: OSError.\n    """\n', 'says "Errors:" for "Raises:"'),
        ("def f():\n" + "    x = 1\n" * 61, "f has 61 lines"),
        ("x = 1\n" * 401, "has 401 lines, at most 400 are allowed"),
    ],
)
def test_a_broken_rule_is_named(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    (line,) = violations(path, tmp_path)
    assert line.startswith("module.py")
    assert line.endswith(error)
