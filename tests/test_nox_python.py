"""The search for a Python that the pins support, with programs that only say their version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import nox_python
from tasks.util.files import REPOSITORY


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine whose own Python is 3.14, and which has the interpreters that are put on it."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(nox_python, "OWN", (3, 14))

    def put(place: str, text: str) -> str:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return put


def test_a_supported_python_is_used_as_it_is() -> None:
    assert nox_python.find() == (sys.executable, sys.version_info[:2])


@pytest.mark.parametrize("version", [(3, 9), (3, 14), (4, 0)])
def test_what_to_install_is_said_where_no_python_is_supported(
    machine, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]
) -> None:
    monkeypatch.setattr(nox_python, "OWN", version)
    assert nox_python.find() is None
    text = nox_python.missing()
    assert "Python 3.10 to 3.13 is needed, python3 is {}.{}".format(*version) in text
    assert "PYTHON=/path/to/python3.13" in text


def test_the_newest_supported_python_of_the_machine_is_found(machine) -> None:
    machine("bin/python3.13", "exit 127")  # a shim for a version that is not installed
    older = machine("bin/python3.11", "echo 3 11")
    assert nox_python.find() == (older, (3, 11))
    pyenv = machine("pyenv/versions/3.12.1/bin/python", "echo 3 12")
    assert nox_python.find() == (pyenv, (3, 12))
    managed = machine("uv/python3.13", "echo 3 13")
    machine("bin/uv", f'[ "$4" = 3.13 ] && echo "{managed}"')
    assert nox_python.find() == (managed, (3, 13))
    named = machine("bin/python3.13", "echo 3 13")
    assert nox_python.find() == (named, (3, 13))


def test_a_newer_one_is_found_for_a_cuda_host(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nox_python, "OWN", (3, 11))
    assert nox_python.find(nox_python.OLDEST_WITH_CUDA) is None
    newer = machine("bin/python3.12", "echo 3 12")
    assert nox_python.find(nox_python.OLDEST_WITH_CUDA) == (newer, (3, 12))


def test_as_a_program_it_prints_the_path_or_the_error(machine, tmp_path: Path) -> None:
    program = str(REPOSITORY / "nox_python.py")
    found = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, f"{sys.executable}\n")
    replaced = tmp_path / "too_new.py"
    replaced.write_text((REPOSITORY / "nox_python.py").read_text().replace("(3, 13)", "(3, 9)", 1))
    for arguments in ([], ["--own"]):
        outcome = subprocess.run(
            [sys.executable, str(replaced), *arguments], capture_output=True, text=True, check=False
        )
        assert outcome.returncode == 5
        assert outcome.stderr.startswith("error: Python 3.10 to 3.9 is needed")
