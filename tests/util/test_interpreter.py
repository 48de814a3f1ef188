"""A Python that cannot run a task is refused before it imports anything, in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.util import interpreter
from tasks.util.files import REPOSITORY

TASKS = sorted(path.stem for path in REPOSITORY.glob("tasks/*.py") if path.stem != "__init__")


def without_packages(task: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a task by this Python without its installed packages."""
    command = [sys.executable, "-S", "-m", f"tasks.{task}", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("task", [task for task in TASKS if task != "clean"])
def test_a_python_without_the_pins_is_refused_in_one_line(task: str) -> None:
    outcome = without_packages(task)
    assert (outcome.returncode, outcome.stdout) == (5, "")
    (line,) = outcome.stderr.splitlines()
    assert " lacks " in line
    assert ("torch" in line) == (task not in ("check", "diff", "doctor", "environment", "report"))


def test_a_task_that_needs_no_package_runs() -> None:
    assert without_packages("clean", "--dry-run").returncode == 0


def test_a_package_below_tasks_is_not_asked() -> None:
    """Installing runs one of them before everything is there."""
    outcome = without_packages("ranks.gpu_libraries", "--help")
    assert "lacks" not in outcome.stderr


@pytest.mark.parametrize("version", [(3, 9), (3, 14), (2, 7)])
def test_a_python_that_the_pins_do_not_support_is_refused(version: tuple[int, int]) -> None:
    error = interpreter.problem("train", version)
    assert error.startswith("this is Python {}.{}, tasks need 3.10 to 3.13: ".format(*version))


def test_this_python_is_accepted() -> None:
    assert interpreter.problem("train", sys.version_info[:2]) is None


@pytest.mark.parametrize(
    ("there", "version", "named"),
    [
        (("lts", "dev"), (3, 11), ".nox/lts/bin/python"),
        (("lts", "dev"), (3, 12), ".nox/dev/bin/python"),
        (("dev",), (3, 11), ".nox/dev/bin/python"),
        (("lts",), (3, 14), ".nox/lts/bin/python"),
    ],
)
def test_the_right_interpreter_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], version: tuple, named: str
) -> None:
    for name in there:
        (tmp_path / f".nox/{name}/bin").mkdir(parents=True)
        (tmp_path / f".nox/{name}/bin/python").symlink_to(sys.executable)
    monkeypatch.setattr(interpreter, "_CHECKOUT", str(tmp_path))
    monkeypatch.setattr(interpreter, "_TRAINING", ("no_such_package",))
    monkeypatch.chdir(tmp_path)
    assert interpreter.problem("train", version).endswith(f": use {named}")


@pytest.mark.parametrize(("nox", "advice"), [("/bin/nox", "nox -s doctor"), (None, "make doctor")])
def test_where_there_is_none_it_is_said_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nox: str | None, advice: str
) -> None:
    """An environment that lacks something itself is no advice: a session repairs it."""
    folder = tmp_path / ".nox/lts"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(sys.executable)
    monkeypatch.setattr(interpreter, "_CHECKOUT", str(tmp_path))
    monkeypatch.setattr(interpreter, "_TRAINING", ("no_such_package",))
    monkeypatch.setattr("sys.prefix", str(folder))
    monkeypatch.setattr("shutil.which", lambda name: nox)
    error = interpreter.problem("train", (3, 11))
    assert error.endswith(f"lacks no_such_package: {advice} installs the right one, in .nox/lts")
    assert os.path.exists(folder)
