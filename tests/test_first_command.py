"""README's first command on machines as their owners have them: clone, ``make regress``, an exact verdict.

The Python at hand is tried always. ``CRASH_TEST_MACHINES=all`` tries every other one here, also with
the plain package index; each installs its own environment, of up to 5 GB.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import nox_python
from tasks.cases.metrics import TABLE
from tests import checkout

pytestmark = [pytest.mark.sessions, pytest.mark.training]

CASE = "gpt3_pp4"
ALL = os.environ.get("CRASH_TEST_MACHINES") == "all"
OF_AN_ENVIRONMENT = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "NOX_CURRENT_SESSION")
NOBODY = 65534


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A Python, the package index, and a user.

    ``python``: a version, a path, or "" for the one that runs the tests; ``plain``: pip has no settings.
    """

    python: str = ""
    plain: bool = False
    user: int | None = None
    folder: str = "a folder of Jörg's"

    def __str__(self) -> str:
        index = "plain index" if self.plain else "index of this machine"
        return f"{self.python or 'this Python'}, {index}{'' if self.user is None else ', not root'}"

    def interpreter(self) -> str:
        """The path of its Python; skips the test where there is none."""
        if not self.python:
            return getattr(sys, "_base_executable", sys.executable)
        if self.python.startswith("/"):
            places = [self.python]
        else:
            places = [path for path in nox_python._places(self.python) if path]
        for place in places:
            if nox_python._version(place):
                return str(place)
        pytest.skip(f"no Python {self.python} on this machine")


MACHINES = [
    Machine(),
    Machine(plain=True),
    Machine(python="3.10"),
    Machine(python="3.12"),
    Machine(python="3.13", plain=True),
    Machine(python="/usr/bin/python3"),
    Machine(user=NOBODY),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are root's alone."""
    path = Path(tempfile.mkdtemp(prefix="first-command-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def variables(machine: Machine, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in OF_AN_ENVIRONMENT}
    kept["PATH"] = os.pathsep.join(
        part for part in kept["PATH"].split(os.pathsep) if not part.startswith(sys.prefix)
    )
    if machine.plain:
        kept.pop("PIP_FIND_LINKS", None)
        kept["PIP_CONFIG_FILE"] = os.devnull
    return kept | {"HOME": str(home), "CRASH_TEST_DEVICE": "cpu"}


@pytest.mark.parametrize("machine", MACHINES, ids=str)
def test_clone_and_make_regress_end_with_an_exact_verdict(machine: Machine, folder: Path) -> None:
    if machine != MACHINES[0] and not ALL:
        pytest.skip("only with CRASH_TEST_MACHINES=all")
    if machine.user is not None and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    python = machine.interpreter()
    origin = checkout.copy_to(folder / "origin", data=False)
    checkout.commit(origin)
    clone = folder / machine.folder
    subprocess.run(["git", "clone", "--quiet", str(origin), str(clone)], check=True)
    if machine.user is not None:
        for place in (clone, *clone.rglob("*")):
            os.chown(place, machine.user, machine.user, follow_symlinks=False)
        folder.chmod(0o777)
    outcome = subprocess.run(
        ["make", f"PYTHON={python}", "regress", f"ARGS=--only {CASE} --run-dir runs/first"],
        cwd=clone,
        env=variables(machine, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        user=machine.user,
        umask=0o077 if machine.user is not None else -1,
        timeout=1200,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout
    report = json.loads((clone / f"runs/first/{CASE}/report.json").read_text())
    rows = {row["metric"]: row for row in report["rows"] if row["comparison"] == "golden"}
    deterministic = [name for name, metric in TABLE.items() if metric.kind.deterministic and name in rows]
    assert {"lm loss", "grad-norm", "num-zeros", "params-norm"} <= set(deterministic)
    assert {name: rows[name]["verdict"] for name in deterministic} == dict.fromkeys(deterministic, "exact")
    assert {rows[name]["check"] for name in deterministic} == {"exact"}
