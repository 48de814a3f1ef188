"""The menu of what people and CI run (``nox -l``): a session is the pinned environment and a task."""

from __future__ import annotations

import functools
import shlex
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).resolve().parent))

import nox_environment
from nox_environment import arguments, finish, prepare, run, run_task
from tasks.cases import names
from tasks.util.exits import USAGE

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "shared"
nox.options.error_on_external_run = True
nox_environment.install()

MAIN_CASE = "gpt3_pp4_resume"


def run_case(session: nox.Session, name: str) -> None:
    """One case: train, restart, compare, report."""
    prepare(session)
    run_task(session, "run", name, *session.posargs)


for _name in names.case_names():
    _session = functools.partial(run_case, name=_name)
    _session.__doc__ = f"{names.purpose(_name)}."
    nox.session(name=_name, default=False)(_session)


@nox.session
def regress(session: nox.Session) -> None:
    """Run all cases supported here (default)."""
    prepare(session)
    run_task(session, "regress", *session.posargs)


@nox.session(default=False)
def case(session: nox.Session) -> None:
    """Run a case of Megatron-LM's functional tests as it is: nox -s case -- --case-file PATH."""
    prepare(session)
    run_task(session, "run", *session.posargs)


@nox.session(default=False)
def record(session: nox.Session) -> None:
    """Write golden cards from three equal runs each: nox -s record -- [CASE] --reason TEXT."""
    prepare(session)
    run_task(session, "record", *arguments(session))


@nox.session(default=False)
def tests(session: nox.Session) -> None:
    """Test the harness itself: lint, unit tests, one main job; with arguments: pytest alone."""
    prepare(session)
    if given := arguments(session):
        run(session, "python", "-m", "pytest", *given)
    else:
        check_style(session)
        run(session, "python", "-m", "pytest")
        run_task(session, "run", MAIN_CASE, *session.posargs)


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Inject known faults and report which check detects each: nox -s faults -- [NAME]."""
    prepare(session)
    run_task(session, "faults", *arguments(session))


@nox.session(default=False)
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff, then all cases and golden cards."""
    if given := arguments(session):
        session.log(f"error: lint checks everything and takes no arguments: {shlex.join(given)}")
        finish(session, USAGE)
    prepare(session)
    check_style(session)
    run_task(session, "check")


@nox.session(default=False)
def check(session: nox.Session) -> None:
    """Check cases on all their platforms, and golden cards, in a second: nox -s check -- [CASE]."""
    prepare(session)
    run_task(session, "check", *arguments(session))


@nox.session(default=False)
def doctor(session: nox.Session) -> None:
    """Report hardware, software and which cases can run; --json for programs."""
    prepare(session)
    run_task(session, "doctor", *arguments(session))


@nox.session(default=False, venv_backend="none")
def clean(session: nox.Session) -> None:
    """Remove old run directories, never a running one: nox -s clean -- --keep 5."""
    try:
        run(session, sys.executable, "-m", "tasks.clean", *session.posargs)
    except nox.command.CommandFailed:
        finish(session, USAGE)


def check_style(session: nox.Session) -> None:
    """Ruff, twice."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")


nox_environment.refuse_unknown_sessions()
