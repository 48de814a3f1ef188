"""Extend nox: one environment for all sessions, six exit codes, SIGTERM as Ctrl-C."""

from __future__ import annotations

import argparse
import atexit
import fcntl
import functools
import hashlib
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import nox
import nox.registry
import nox.virtualenv

import nox_python
from nox_install import install_pins
from tasks.machine import host_memory, platforms
from tasks.util.exits import CANNOT_RUN, MEANINGS, SESSION_VARIABLE, TRAINING_FAILED, USAGE
from tasks.util.files import CUDA_PINS, GPU_PINS, PINS
from tasks.util.suggestions import did_you_mean

PYTHON, PYTHON_VERSION = nox_python.find() or (None, sys.version_info[:2])
ENVIRONMENT = platforms.environment(PYTHON_VERSION)
STAMP = "pins.sha256"
# The terminal sends a Ctrl-C to the task, too; after a SIGTERM, nox interrupts the task. It stops within 6 s.
TASK_ASKED_AFTER_S, TASK_STOPS_WITHIN_S = 0.5, 8.5
OTHER_STOPS_WITHIN_S = 4.0  # pytest ends its tests in order after Ctrl-C alone


class SharedEnvironment(nox.virtualenv.VirtualEnv):
    """One environment for all sessions, created again when the pins have changed."""

    def __init__(self, location: str, **options: object) -> None:
        if sys.executable != PYTHON:
            options["interpreter"] = PYTHON
        super().__init__(str(Path(location).with_name(ENVIRONMENT)), venv_backend="virtualenv", **options)
        self.stamp = Path(self.location, STAMP)
        self.lock = None

    def create(self) -> bool:
        """Create or reuse it. Other sessions wait until ``prepare`` has filled it."""
        if PYTHON is None:
            print(f"error: {nox_python.missing()}", file=sys.stderr)
            sys.exit(CANNOT_RUN)
        self._wait_for_others()
        self.reuse_existing = self.is_filled()
        return super().create()

    def _wait_for_others(self) -> None:
        path = Path(self.location).with_name(f".{ENVIRONMENT}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.lock = path.open("w")
        except OSError as error:
            if self.is_filled():  # nobody can change it
                return
            where = f"{path.parent}: cannot be written ({error.strerror})"
            print(f"error: {where}: copy the checkout, or make it writable", file=sys.stderr)
            sys.exit(CANNOT_RUN)
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def is_filled(self) -> bool:
        """True when its stamp says that the pins are installed."""
        return self.stamp.is_file() and self.stamp.read_text() == pins_digest()


@functools.cache
def pins_digest() -> str:
    """Digest of the Python and the pins."""
    files = [PINS, CUDA_PINS, GPU_PINS] if platforms.on_gpus() else [PINS, CUDA_PINS]
    content = b"".join(path.read_bytes() for path in files)
    python = sys.version if sys.executable == PYTHON else str(PYTHON)
    return hashlib.sha256(python.encode() + content).hexdigest()


def prepare(session: nox.Session) -> None:
    """Install the pins once and verify them. With --no-venv, use the installed packages."""
    environment = session.virtualenv
    if not isinstance(environment, SharedEnvironment):
        return
    # Bytecode is written at first import, not by pip: without it, importing megatron takes 11 s, not 5.
    session.env["PYTHONDONTWRITEBYTECODE"] = None
    gpu = ["--gpu"] if platforms.on_gpus() else []
    verify = ["python", "-m", "tasks.environment", "verify", *gpu]
    try:
        if environment.is_filled():
            session.run(*verify, silent=True)
            return
        install_pins(session, python_version="{}.{}".format(*PYTHON_VERSION))
        session.run(*verify, "--dependencies", silent=True)  # stdout belongs to the task
        environment.stamp.write_text(pins_digest())
    except nox.command.CommandFailed:
        session.log(f"{environment.location_name} is not the pinned environment: see above")
        finish(session, CANNOT_RUN)
    finally:
        if environment.lock:
            environment.lock.close()


_stopped: list[int] = []
_first_code: list[int] = []


def run_task(session: nox.Session, task: str, *arguments: str) -> None:
    """Run ``python -m tasks.<task>``; its exit code is the session's."""
    memory_kills = host_memory.kills()
    waits = {"interrupt_timeout": TASK_ASKED_AFTER_S, "terminate_timeout": TASK_STOPS_WITHIN_S}
    try:
        run(session, "python", "-m", f"tasks.{task}", *arguments, **waits)
    except nox.command.CommandFailed as failure:
        if failure.args and "not found" in str(failure.args[0]):
            finish(session, CANNOT_RUN)
        code = getattr(failure, "return_code", None)
        if code == -signal.SIGKILL and host_memory.kills() > memory_kills:
            session.log(f"tasks.{task} {host_memory.killed()}")
            finish(session, CANNOT_RUN)
        finish(session, code if code in MEANINGS else TRAINING_FAILED)


def run(
    session: nox.Session,
    *command: str,
    interrupt_timeout: float = OTHER_STOPS_WITHIN_S,
    terminate_timeout: float = OTHER_STOPS_WITHIN_S,
) -> None:
    """Run a command of the environment; in a dry run print it, unless it has ``--dry-run`` itself.

    Raises:
        KeyboardInterrupt: nox was stopped while the command ran.
    """
    if "--dry-run" in session.posargs and "--dry-run" not in command:
        session.log(f"would run: {shlex.join(command)}")
        return
    session.run(
        *command,
        external=session.venv_backend == "none",
        env={SESSION_VARIABLE: str(os.getpid())},
        interrupt_timeout=interrupt_timeout,
        terminate_timeout=terminate_timeout,
    )
    if _stopped:  # nox would continue after a stopped command that exits 0
        raise KeyboardInterrupt


def arguments(session: nox.Session) -> list[str]:
    """The arguments after ``--``, for a task without a dry run."""
    return [argument for argument in session.posargs if argument != "--dry-run"]


def finish(session: nox.Session, code: int) -> None:
    """Fail the session. nox, which knows exit codes 0 and 1 only, exits with the first session's code."""
    if not _first_code:
        _first_code.append(code)
        atexit.register(_exit_with_first_code)
    session.error(f"{MEANINGS[code]} (exit code {code})")


def _exit_with_first_code() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_first_code[0])


def _stop(number: int, _: object) -> None:
    """Handle SIGTERM as Ctrl-C, which nox passes on to the running task."""
    _stopped.append(number)
    raise KeyboardInterrupt(f"stopped by signal {number}")


def install() -> None:
    """Register the shared environment and the SIGTERM handler with nox."""
    nox.virtualenv.ALL_VENVS["shared"] = SharedEnvironment
    if not shutil.which("uv"):  # nox looks for it in every session, and logs that it is not there
        nox.virtualenv.HAS_UV, nox.virtualenv.UV = False, "uv"
        nox.virtualenv.UV_VERSION = nox.virtualenv.version.Version("0")
    signal.signal(signal.SIGTERM, _stop)


def refuse_unknown_sessions() -> None:
    """Exit with 2 (bad usage) after an unknown session; nox would exit with 3, here failed training."""
    if problem := unknown_session(sys.argv[1:], list(nox.registry.get())):
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(USAGE)


def unknown_session(argv: list[str], known: list[str]) -> str | None:
    """The error for the first unknown session of nox's command line, or None."""
    argv = argv[: argv.index("--")] if "--" in argv else argv
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-s", "--session", "--sessions", nargs="*", action="extend", default=[])
    for name in parser.parse_known_args(argv)[0].session:
        if name not in known:
            hint = did_you_mean(name, known, listed="Sessions", cutoff=0.4)
            return f"there is no session {name!r}. {hint}"
    return None
