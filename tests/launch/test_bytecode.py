"""Bytecode is kept beside the corpora where the interpreter was told to write none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.util.files import REPOSITORY

PROGRAM = """
import sys
from pathlib import Path
from tasks.launch import bytecode
print(bytecode.keep("some_package", Path(sys.argv[1])), bytecode.is_missing("some_package"))
import some_package
print(bytecode.is_missing("some_package"), bytecode.is_missing("no_such_package"))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package without bytecode; returns the folder to import it from."""
    folder = tmp_path / "site" / "some_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("VALUE = 1\n")
    return folder.parent


def run(package: Path, kept: Path, **environ: str) -> list[str]:
    """Import the package in a process of its own; returns what ``keep`` answered, whether bytecode is missing
    then, whether after the import, and whether of a package that is not there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    outcome = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(kept)],
        env=clean | {"PYTHONPATH": f"{REPOSITORY}:{package}"} | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return outcome.stdout.split()


def compiled(folder: Path) -> list[Path]:
    return sorted(folder.rglob("some_package/**/*.pyc"))


def test_kept_apart_where_none_may_be_written(package: Path, tmp_path: Path) -> None:
    assert run(package, tmp_path / "kept", PYTHONDONTWRITEBYTECODE="1") == ["True", "True", "False", "False"]
    assert len(compiled(tmp_path / "kept")) == 1
    assert compiled(package) == []


def test_left_alone_where_python_writes_it_itself(package: Path, tmp_path: Path) -> None:
    assert run(package, tmp_path / "kept") == ["False", "True", "False", "False"]
    assert len(compiled(package)) == 1
    assert not (tmp_path / "kept").exists()


def test_left_alone_where_the_package_has_its_own(package: Path, tmp_path: Path) -> None:
    run(package, tmp_path / "kept")
    assert run(package, tmp_path / "kept", PYTHONDONTWRITEBYTECODE="1") == ["False"] * 4
    assert not (tmp_path / "kept").exists()


def test_a_folder_of_the_users_own_is_heeded(package: Path, tmp_path: Path) -> None:
    theirs = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(tmp_path / "theirs")}
    assert run(package, tmp_path / "kept", **theirs) == ["False", "True", "True", "False"]
    assert not (tmp_path / "kept").exists()
