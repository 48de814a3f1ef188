"""The lock of a run directory, and the check that no process uses the directory any more."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from tasks.util.exits import CannotRun


def lock_file(run_dir: Path) -> Path:
    """The lock file beside the run directory: a session holds it from its first step to its last."""
    run_dir = run_dir.absolute()  # "." has no name
    return run_dir.with_name(f".{run_dir.name}.lock")


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """The run's lock, which keeps ``clean`` away between two steps."""
    path = lock_file(run_dir)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except OSError as error:
        raise CannotRun(f"{path}: cannot be made ({error.strerror}): choose another --run-dir") from error
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # another session holds it, too, and takes it away
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)


def _locked(path: Path) -> IO[str]:
    """The lock file, held; another session may take it away between the two."""
    while True:
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_SH)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()


def is_running(run_dir: Path, processes: Path = Path("/proc")) -> bool:
    """True when a session holds the run's lock, or a process has one of its files open."""
    return is_locked(lock_file(run_dir)) or any(
        path.is_relative_to(run_dir.resolve()) for path in _open_files(processes)
    )


def is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _open_files(processes: Path) -> Iterable[Path]:
    for link in processes.glob("[0-9]*/fd/*"):
        try:
            yield link.readlink()
        except OSError:  # the process ended, or is somebody else's
            continue
