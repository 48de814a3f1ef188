"""Makefile: the sessions through make, and nox brought along where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.util.files import REPOSITORY
from tests.stub_checkout import add_case

TOOLS = [
    "sh",
    "bash",
    "sort",
    "head",
    "grep",
    "rm",
    "cp",
    "touch",
    "mkdir",
    "cat",
    "echo",
    "chmod",
    "make",
    "dirname",
]
NOX = '#!/bin/sh\n[ "$1" = --version ] && { echo VERSION >&2; exit 0; }\necho "nox: $@"\nexit EXITS\n'
# A Python that its distribution manages: pip refuses, venv makes an environment where pip works.
MANAGED_PYTHON = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
  *"-m pip"*) echo "error: externally-managed-environment" >&2; exit 1 ;;
  nox_python.py) echo "${FOUND:-python3}"; exit ${UNSUPPORTED:-0} ;;
  "nox_python.py --own") [ -z "$UNSUPPORTED" ] || { echo "Python 3.10 to 3.13 is needed" >&2; exit 5; } ;;
  *"import venv"*) exit $NO_VENV ;;
  "-m venv .venv") mkdir -p .venv/bin
    cp stub .venv/bin/python ;;
esac
"""

# The Python of .venv: pip installs nox, a script whose first line a path with $ or ' would break.
OWN_PYTHON = """#!/bin/sh
echo "venv: $@" >> "$CALLS"
case "$*" in
  "-m pip "*) touch .venv/bin/nox ;;
  "-m nox "*) shift 2; echo "bootstrapped: $@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile, and a PATH with nothing but the tools that every machine has."""
    return checkout_in(tmp_path)


def checkout_in(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    add_case(tmp_path, "a_case")
    (tmp_path / "stub").write_text(OWN_PYTHON)
    (tmp_path / "stub").chmod(0o755)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        if place := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(place)
    return tmp_path


def put(folder: Path, name: str, text: str) -> None:
    path = folder / "bin" / name
    path.write_text(text)
    path.chmod(0o755)


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {
        "PATH": str(folder / "bin"),
        "CALLS": str(folder / "calls.txt"),
        "NO_VENV": "0",
    }
    return subprocess.run(
        [str(folder / "bin/make"), *arguments],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "target", ["regress", "record", "tests", "lint", "check", "doctor", "clean", "a_case"]
)
def test_a_target_is_the_session_of_that_name(checkout: Path, target: str) -> None:
    put(checkout, "nox", NOX.replace("VERSION", "2026.10.20").replace("EXITS", "0"))
    assert make(checkout, target).stdout == f"nox: -s {target}\n"
    assert make(checkout, target, "ARGS=--keep 5").stdout == f"nox: -s {target} -- --keep 5\n"
    assert not (checkout / ".venv").exists()


def test_make_shows_the_code_of_the_session(checkout: Path) -> None:
    put(checkout, "nox", NOX.replace("VERSION", "2026.10.20").replace("EXITS", "4"))
    outcome = make(checkout, "regress")
    assert outcome.returncode == 2
    assert "Error 4" in outcome.stderr


@pytest.mark.parametrize("version", [None, "2022.11.21", "pyenv: nox: command not found"])
def test_nox_is_bootstrapped_where_there_is_none_or_an_old_one(checkout: Path, version: str | None) -> None:
    if version:
        put(checkout, "nox", NOX.replace("VERSION", version).replace("EXITS", "0"))
    put(checkout, "python3", MANAGED_PYTHON)
    outcome = make(checkout, "lint")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.endswith("bootstrapped: -s lint\n")
    calls = (checkout / "calls.txt").read_text()
    assert (
        "venv: -m pip install --quiet --disable-pip-version-check --constraint requirements.txt nox" in calls
    )
    assert "\n-m pip" not in calls, "the distribution's own Python was touched"
    assert "no nox on PATH" not in make(checkout, "lint").stdout, "it was installed twice"


def test_a_change_of_the_pins_renews_nox(checkout: Path) -> None:
    put(checkout, "python3", MANAGED_PYTHON)
    make(checkout, "lint")
    os.utime(checkout / "requirements.txt", (4e9, 4e9))
    assert "the pinned one is installed" in make(checkout, "lint").stdout


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NO_VENV": "1"}, "has no venv module: install it"),
        ({"UNSUPPORTED": "5"}, "Python 3.10 to 3.13 is needed"),
    ],
)
def test_what_is_missing_is_said(checkout: Path, variables: dict[str, str], message: str) -> None:
    put(checkout, "python3", MANAGED_PYTHON)
    outcome = make(checkout, "lint", **variables)
    assert outcome.returncode == 2
    assert message in outcome.stderr
    assert "Error 5" in outcome.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [(None, "no python3: install Python 3.10"), ("/my/python", "no /my/python: install")],
)
def test_no_python_at_all(checkout: Path, given: str | None, message: str) -> None:
    outcome = make(checkout, "lint", *([f"PYTHON={given}"] if given else []))
    assert f"there is {message}" in outcome.stderr
    assert "Error 5" in outcome.stderr


def test_the_python_that_nox_python_finds_makes_the_environment(checkout: Path) -> None:
    put(checkout, "python3", MANAGED_PYTHON)
    put(checkout, "python3.12", MANAGED_PYTHON.replace('echo "$@"', 'echo "newer $@"'))
    make(checkout, "lint", FOUND="python3.12")
    assert "newer -m venv" in (checkout / "calls.txt").read_text()


def test_a_python_that_is_given_decides(checkout: Path) -> None:
    """A nox on PATH, or a .venv that is there, does not go before it."""
    put(checkout, "nox", NOX.replace("VERSION", "2026.10.20").replace("EXITS", "0"))
    for name in ("mine", "other"):
        put(checkout, name, MANAGED_PYTHON.replace('echo "$@"', f'echo "{name} $@"'))
    calls = checkout / "calls.txt"
    for name, makes in (("mine", True), ("mine", False), ("other", True)):
        calls.write_text("")
        assert make(checkout, f"PYTHON={name}", "lint").stdout.endswith("bootstrapped: -s lint\n")
        assert (f"{name} -m venv .venv" in calls.read_text()) == makes
    assert make(checkout, "lint").stdout == "nox: -s lint\n"


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (
            ["regress", "CASE=a_case"],
            "nothing reads CASE=a_case; for one case type: make a_case, for several: ",
        ),
        (["regress", "--", "--only", "a_case"], 'type: make regress ARGS="--only a_case".'),
        (["--", "--jobs", "2", "lint"], 'type: make lint ARGS="--jobs 2".'),
        (["regress", "--", "--only=a_case"], 'type: make regress ARGS="--only=a_case".'),
        (["a_cas"], "there is no target a_cas; type: make help"),
    ],
)
def test_words_that_are_no_targets_are_refused_before_anything_runs(
    checkout: Path, words: list[str], advice: str
) -> None:
    put(checkout, "nox", NOX.replace("VERSION", "2026.10.20").replace("EXITS", "0"))
    outcome = make(checkout, *words)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert advice in line


@pytest.mark.parametrize("name", ["two words", "a $HOME b", "it's", "$(pwd)", "größe", '"'])
def test_a_checkout_may_have_any_path(tmp_path: Path, name: str) -> None:
    """A nox, or a Python, that lies in the checkout itself, too."""
    folder = tmp_path / name
    folder.mkdir()
    checkout_in(folder)
    put(folder, "python3", MANAGED_PYTHON)
    put(folder, "nox", NOX.replace("VERSION", "2026.10.20").replace("EXITS", "0"))
    assert make(folder, "lint").stdout == "nox: -s lint\n"
    (folder / "bin/nox").unlink()
    outcome = make(folder, "lint", FOUND=str(folder / "bin/python3"))
    assert outcome.stdout.endswith("bootstrapped: -s lint\n"), outcome.stderr
    assert make(folder, "lint", FOUND=str(folder / "bin/python3")).stdout == "bootstrapped: -s lint\n"


def test_help_comes_first_and_names_every_target(checkout: Path) -> None:
    text = make(checkout).stdout
    assert all(
        f"make {target} " in text
        for target in ("regress", "record", "tests", "lint", "check", "doctor", "clean")
    )
