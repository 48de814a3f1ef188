"""A copy of this checkout for tests that run commands in it, and a PATH with only the allowed programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tasks.util.files import REPOSITORY

TOOLS = ["bash", "cat", "chmod", "cut", "date", "dirname", "echo", "env", "git", "grep", "head", "ls"]
TOOLS += ["make", "mkdir", "mv", "rm", "sed", "sh", "sleep", "sort", "tail", "touch", "tr"]
OF_THE_ENVIRONMENT = ["ruff", "pytest", "register-python-argcomplete"]
# Sessions that train nothing run; all others print what they would run.
NOX = """#!/bin/bash
case " $* " in
  *" -l "*|*" --version "*|*" -s doctor "*|*" -s clean "*|*" -s lint "*)
    export RUN_TASKS=yes; exec "$REAL_PYTHON" -m nox --nocolor --no-venv "$@" ;;
  *" -- "*) ;;
  *) set -- "$@" -- ;;
esac
out="$("$REAL_PYTHON" -m nox --nocolor --no-venv "$@" --dry-run 2>&1)"; code=$?
echo "$out"
[ "$code" -eq 0 ] || exit "$code"
# The command lines of the tasks must be right, too.
sed -n "s/^\\(nox > \\)*would run: \\(python -m tasks\\.\\)/\\2/p" <<< "$out" | "$REAL_PYTHON" "$PARSE_ONLY"
"""
# The real nox, with the Python of the test as its environment.
REAL_NOX = '#!/bin/bash\nexec "$REAL_PYTHON" -m nox --nocolor --no-venv "$@"\n'
# Programs of the repository only parse their command line, except dry runs of what is there.
PYTHON = """#!/bin/bash
case "$*" in
  *" --megatron-lm "* | *" --trainer megatron"*) ;;  # a checkout, or the wheel of another Python
  "-m tasks.run "*--dry-run* | "-m tasks.regress "*--dry-run*) exec "$REAL_PYTHON" "$@" ;;
esac
case "${RUN_TASKS:-no} $1 $2" in
  "no -m tasks."* | "no -m benchmarks."*) shift; exec "$REAL_PYTHON" "$PARSE_ONLY" "$@" ;;
  "no "*.py*) exec "$REAL_PYTHON" "$PARSE_ONLY" "$@" ;;
esac
exec "$REAL_PYTHON" "$@"
"""
PARSE_ONLY = REPOSITORY / "tests/programs/parse_only.py"


def copy_to(folder: Path, *, data: bool = True) -> Path:
    """Copy the checkout as it is now, without runs.

    ``data``: data/ is shared, since it takes seconds to build.
    """
    skipped = shutil.ignore_patterns(".git", ".nox", ".venv", "runs", "data", "__pycache__", ".*_cache")
    shutil.copytree(REPOSITORY, folder, ignore=skipped)
    if data:
        (REPOSITORY / "data").mkdir(exist_ok=True)
        (folder / "data").symlink_to(REPOSITORY / "data")
    return folder


def commit(folder: Path, *paths: str) -> None:
    """Make the folder a repository with one commit of these paths, by default of all."""
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    added = ("add", *(paths or ["--all"]))
    for argv in (("init", "--quiet"), added, (*identity, "commit", "--quiet", "-m", "all")):
        subprocess.run(["git", *argv], cwd=folder, check=True)


def programs(folder: Path, **scripts: str) -> Path:
    """A folder for PATH: basic tools, some of the environment, python, and ``scripts`` by name."""
    folder.mkdir()
    for tool in TOOLS:
        if place := shutil.which(tool):
            (folder / tool).symlink_to(place)
    for tool in OF_THE_ENVIRONMENT:
        place = shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)
        (folder / tool).symlink_to(place)
    shutil.copy(PARSE_ONLY, folder / "parse_only")
    for name, text in {"python": PYTHON, "python3": PYTHON, **scripts}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def run_script(
    script: str, *, cwd: Path, path: Path, timeout_s: float = 240, **variables: str
) -> subprocess.CompletedProcess:
    """Run shell lines as CI runners do: the first that fails ends the script."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = {
        "PATH": str(path),
        "REAL_PYTHON": sys.executable,
        "PARSE_ONLY": str(path / "parse_only"),
        "CRASH_TEST_DEVICE": "cpu",
    }
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=cwd,
        env={**kept, **environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
