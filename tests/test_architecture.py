"""docs/architecture.md names modules that exist, and draws the imports that tests/packages.py allows."""

from __future__ import annotations

import re
import subprocess

from tasks.util.files import REPOSITORY
from tests.packages import ALLOWED, COMMANDS

TEXT = (REPOSITORY / "docs/architecture.md").read_text()
QUESTIONS = (
    "Where is a golden card found?",
    "Where does a tolerance stand?",
    "Where does a rank save?",
    "Where is a failing phase classified?",
)


def drawn_imports() -> dict[str, set[str]]:
    """Each package of the second diagram, and those that its solid arrows lead to."""
    _, diagram = re.findall(r"```mermaid\n(.*?)```", TEXT, re.DOTALL)
    arrows = re.findall(r"^ +(\w+) --> (\w+)$", diagram, re.MULTILINE)
    drawn: dict[str, set[str]] = {name: set() for pair in arrows for name in pair}
    for origin, target in arrows:
        drawn[origin].add(target)
    return drawn


def reached(package: str, drawn: dict[str, set[str]]) -> set[str]:
    return drawn[package].union(*(reached(each, drawn) for each in drawn[package]))


def test_every_path_that_it_names_exists() -> None:
    paths = set(re.findall(r"(?:tasks|tests|docs|test_cases|goldens)/[\w/]*(?:\.\w+)?", TEXT))
    assert len(paths) > 30
    assert sorted(path for path in paths if not (REPOSITORY / path).exists()) == []


def test_every_package_is_named() -> None:
    assert [name for name in ALLOWED if name != COMMANDS and f"| `tasks/{name}/` |" not in TEXT] == []


def test_the_arrows_are_the_imports_that_are_allowed() -> None:
    drawn = drawn_imports()
    assert {name: reached(name, drawn) for name in drawn} == {
        name: targets - {name} for name, targets in ALLOWED.items()
    }


def test_a_newcomers_questions_have_a_file_each() -> None:
    for question in QUESTIONS:
        assert re.search(rf"^\| {re.escape(question)} \| `tasks/\w+/\w+\.py`", TEXT, re.MULTILINE), question


def test_every_module_that_documents_and_docstrings_name_exists() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.yaml", "*.yml", "*.txt"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    missing = []
    for file in listed:
        text = (REPOSITORY / file).read_text()
        named = set(
            re.findall(r"(?<![\w/<>.])(?:tasks|tests|benchmarks|docs)/[\w/]+\.(?:py|md|png|j2)\b", text)
        )
        missing += [f"{file} names {path}" for path in named if not (REPOSITORY / path).exists()]
    assert len(listed) > 200
    assert missing == []
