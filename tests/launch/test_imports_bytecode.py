"""Bytecode is kept beside the corpora where the interpreter may write none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.util.files import REPOSITORY
from tests.program import started_anew


@pytest.fixture(autouse=True)
def plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of Python's but those that a test sets."""
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        monkeypatch.delenv(name)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package without bytecode; returns the folder to import it from."""
    folder = tmp_path / "site" / "some_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("VALUE = 1\n")
    return folder.parent


def run(package: Path, kept: Path, **variables: str) -> list[bool]:
    """Import the package in a new process: whether its bytecode is kept in ``kept``, whether it is missing
    then, whether after the import, and whether of a package that is not there."""
    path = {"PYTHONPATH": f"{REPOSITORY}:{package}"}
    finished = started_anew("imports.keep_bytecode", str(kept), variables=path | variables)
    assert finished.exit_code == 0, finished.stderr
    return list(finished.answer.values())


def compiled(folder: Path) -> list[Path]:
    return sorted(folder.rglob("some_package/**/*.pyc"))


def test_kept_apart_where_none_may_be_written(package: Path, tmp_path: Path) -> None:
    assert run(package, tmp_path / "kept", PYTHONDONTWRITEBYTECODE="1") == [True, True, False, False]
    assert len(compiled(tmp_path / "kept")) == 1
    assert compiled(package) == []


def test_left_alone_where_python_writes_it_itself(package: Path, tmp_path: Path) -> None:
    assert run(package, tmp_path / "kept") == [False, True, False, False]
    assert len(compiled(package)) == 1
    assert not (tmp_path / "kept").exists()


def test_left_alone_where_the_package_has_its_own(package: Path, tmp_path: Path) -> None:
    run(package, tmp_path / "kept")
    assert run(package, tmp_path / "kept", PYTHONDONTWRITEBYTECODE="1") == [False] * 4
    assert not (tmp_path / "kept").exists()


def test_a_folder_of_the_users_own_is_heeded(package: Path, tmp_path: Path) -> None:
    theirs = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(tmp_path / "theirs")}
    assert run(package, tmp_path / "kept", **theirs) == [False, True, True, False]
    assert not (tmp_path / "kept").exists()
