"""Imports between packages of ``tasks`` go one way. Only ``tasks.ranks`` imports torch and megatron;
``tasks.launch`` imports these and ``tasks.ranks`` inside functions, in the process that forks the ranks.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.util.files import REPOSITORY
from tests.packages import ALLOWED, COMMANDS

RANK_LIBRARIES = {"torch", "megatron", "transformer_engine"}


def imported(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Line, dotted name and whether it is imported as the module loads, of every import; also lazy ones and
    those for typing alone.
    """
    top = set(map(id, getattr(tree, "body", ())))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)


def package_of(name: str) -> str | None:
    """The package of ``tasks`` that a dotted name belongs to; None outside ``tasks``."""
    first, *rest = name.split(".")
    if first != "tasks":
        return None
    return rest[0] if rest and rest[0] in ALLOWED else COMMANDS


def wrong_imports(path: Path, root: Path = REPOSITORY) -> list[str]:
    """A line for each import of a module that its package may not have."""
    file = path.relative_to(root).as_posix()
    package = package_of(file.removesuffix(".py").replace("/", "."))
    wrong = []
    for line, name, at_load in imported(ast.parse(path.read_text())):
        target = package_of(name)
        inside_the_launcher = package == "launch" and not at_load
        reaches_ranks = target == "ranks" and inside_the_launcher
        if target and target != package and target not in ALLOWED[package] and not reaches_ranks:
            wrong.append(f"{file}:{line} imports {name}: {package} may not import {target}")
        if name.split(".")[0] in RANK_LIBRARIES and package != "ranks" and not inside_the_launcher:
            wrong.append(f"{file}:{line} imports {name}: only tasks/ranks does")
    return wrong


def circles(modules: dict[str, set[str]]) -> list[str]:
    """The modules (name to the names that it imports) that import themselves through others."""
    reached = {name: set(direct) for name, direct in modules.items()}
    for _ in modules:
        for direct in reached.values():
            direct |= set().union(*(reached.get(name, set()) for name in direct))
    return sorted(name for name, direct in reached.items() if name in direct)


FILES = sorted((REPOSITORY / "tasks").rglob("*.py"))


def test_imports_go_one_way() -> None:
    assert [line for path in FILES for line in wrong_imports(path)] == []


def test_every_folder_of_tasks_is_a_package_with_a_rule() -> None:
    folders = {path.parent.name for path in FILES if path.parent.parent.name == "tasks"}
    assert folders == set(ALLOWED) - {COMMANDS}


def test_no_module_imports_itself_through_others() -> None:
    """Lazy imports and those for typing count."""
    names = {
        path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", "."): path for path in FILES
    }
    modules = {}
    for name, path in names.items():
        wanted = {each for _, each, _ in imported(ast.parse(path.read_text()))}
        wanted |= {each.rpartition(".")[0] for each in wanted}
        modules[name] = {each for each in wanted if each in names}
    assert circles(modules) == []


@pytest.mark.parametrize(
    ("module", "line", "error"),
    [
        ("records/card.py", "from tasks.judge.strict import Row", "records may not import judge"),
        ("judge/run.py", "from tasks.launch import agent", "judge may not import launch"),
        ("launch/agent.py", "from tasks.judge import run", "launch may not import judge"),
        ("cases/case.py", "from tasks.machine import platforms", "cases may not import machine"),
        ("machine/nccl.py", "def f():\n    from tasks.cases import case", "machine may not import cases"),
        ("suite/jobs.py", "import tasks.ranks.model", "suite may not import ranks"),
        ("launch/trainer.py", "from tasks.ranks import pretrain", "launch may not import ranks"),
        ("reports/html.py", "import tasks.regress", "reports may not import commands"),
        ("launch/agent.py", "import torch", "only tasks/ranks does"),
        ("judge/run.py", "def f():\n    import torch", "only tasks/ranks does"),
        ("doctor.py", "from megatron.core import parallel_state", "only tasks/ranks does"),
    ],
)
def test_a_wrong_import_is_named(tmp_path: Path, module: str, line: str, error: str) -> None:
    path = tmp_path / "tasks" / module
    path.parent.mkdir(parents=True)
    path.write_text(f"{line}\n")
    (wrong,) = wrong_imports(path, tmp_path)
    assert wrong.startswith(f"tasks/{module}:")
    assert wrong.endswith(error)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("launch/trainer.py", "def f():\n    from tasks.ranks import pretrain"),
        ("ranks/model.py", "import torch"),
        ("launch/agent.py", "def f():\n    import torch"),
        ("regress.py", "from tasks.suite import jobs"),
        ("suite/dry_run.py", "from tasks.launch import setup"),
    ],
)
def test_imports_that_are_allowed(tmp_path: Path, module: str, line: str) -> None:
    path = tmp_path / "tasks" / module
    path.parent.mkdir(parents=True)
    path.write_text(f"{line}\n")
    assert wrong_imports(path, tmp_path) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert circles({"a": {"b"}, "b": set()}) == []
