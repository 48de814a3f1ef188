"""Classify a failed phase as infrastructure (network, port, disk, memory, SIGKILL) or training.

The evidence is what ranks noted when they failed, and how their processes ended. A failed transport, a port
taken, a full disk, no memory, a killed process: none is a regression, and none ends with "does not match".
A failure of unknown kind counts as failed training.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.machine import host_memory
from tasks.records.attempts import rank_log
from tasks.util.exits import CANNOT_RUN, TRAINING_FAILED, CannotRun, TaskError, TrainingFailed, UsageError
from tasks.util.files import disk_is_full, write_atomically

FAILURE_FILE = "failure.json"  # in a phase's folder


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of infrastructure failure. ``retry``: a retry cannot hide a regression."""

    name: str
    exit_code: int
    retry: bool
    cure: str


TRANSPORT = Kind(
    name="transport",
    exit_code=TRAINING_FAILED,
    retry=True,
    cure="a connection between ranks broke while all of them were alive: try again (--retries 1)",
)
PORT_TAKEN = Kind(
    name="port taken",
    exit_code=CANNOT_RUN,
    retry=True,
    cure="another process took the port: try again (--retries 1), another one is chosen then",
)
NO_SPACE = Kind(
    name="no space",
    exit_code=CANNOT_RUN,
    retry=False,
    cure="make space (nox -s clean -- --keep 5) or choose another --run-dir",
)
SHARED_MEMORY = Kind(
    name="shared memory",
    exit_code=CANNOT_RUN,
    retry=False,
    cure="enlarge /dev/shm: mount -o remount,size=1G /dev/shm, or docker run --shm-size=1g",
)
# Not retried: a training that needs more memory than before is a regression, which need not always show.
OUT_OF_MEMORY = Kind(
    name="out of memory",
    exit_code=TRAINING_FAILED,
    retry=False,
    cure="free memory, or find out why the training needs more than it did (mem-growth-bytes)",
)
KILLED_FOR_MEMORY = Kind(
    name="memory limit",
    exit_code=CANNOT_RUN,
    retry=False,
    cure="give it more memory (docker run --memory, sbatch --mem), or run fewer cases at once (--jobs)",
)
KILLED_RANK = Kind(
    name="killed rank",
    exit_code=TRAINING_FAILED,
    retry=True,
    cure="a SIGKILL comes from outside the training: find out who sent it, or try again (--retries 1)",
)
KILLED_AGENT = replace(KILLED_RANK, name="killed agent")
KINDS = (TRANSPORT, PORT_TAKEN, NO_SPACE, OUT_OF_MEMORY, SHARED_MEMORY, KILLED_FOR_MEMORY)
KINDS += (KILLED_RANK, KILLED_AGENT)

# In this order: a full disk or lack of memory may break a connection, never the other way round. A timeout of
# a collective is not listed: a training that hangs ends that way.
_SIGNS = (
    (SHARED_MEMORY, r"shared memory segment /dev/shm|/dev/shm: .*No space left|No space left.*'/dev/shm/"),
    (NO_SPACE, r"\[Errno 28\]|No space left on device|Disk quota exceeded"),
    (
        OUT_OF_MEMORY,
        r"CUDA out of memory|CUDA error: out of memory|[Cc]an(?:'t|not) allocate memory|^MemoryError\b",
    ),
    (PORT_TAKEN, r"EADDRINUSE|[Aa]ddress already in use"),
    (
        TRANSPORT,
        r"gloo/\S+\] (?:Connection closed by peer|Read error|Write error|Socket closed|connect|writev|recv)"
        r"|Connection (?:reset|closed) by (?:remote )?peer|connectFullMesh failed"
        r"|ncclRemoteError|ncclSystemError|remote process exited or there was a network error"
        r"|DistNetworkError|Broken pipe",
    ),
)
_LOCKS = re.compile(r"multiprocessing/(?:synchronize|shared_memory)\.py$")
# Python's own pipe or socket, to a process that the rank started: its checkpoint worker may have failed.
_LOCAL = re.compile(r"(?:BrokenPipe|ConnectionReset|ConnectionAborted)Error: ")


class InfrastructureFailure(TaskError):
    """A phase ended by an infrastructure failure."""

    def __init__(self, message: str, kind: Kind) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = kind.exit_code


@dataclass(frozen=True, kw_only=True)
class RankFailure:
    """The end of a rank: its error, if it noted one, the time (seconds), and its exit code (negative: the
    signal that ended it; None: unknown, since the agent looked before the rank had ended). ``usage_error``:
    the message of an error in the input.
    """

    error: str | None = None
    seconds: float = 0.0
    exit_code: int | None = None
    usage_error: str | None = None


def kind_of(message: str) -> Kind | None:
    """The kind of failure that a message shows; None: not an infrastructure failure."""
    found = next((kind for kind, sign in _SIGNS if re.search(sign, message)), None)
    return None if found is TRANSPORT and _LOCAL.match(message) else found


def _described(error: BaseException) -> str:
    """Class and text of an error; also the place, where it is /dev/shm that is full of Python's locks."""
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None
    frames = traceback.extract_tb(error.__traceback__) if full else []
    place = "/dev/shm: " if any(_LOCKS.search(frame.filename) for frame in frames) else ""
    return f"{type(error).__name__}: {place}{error}"


def kind_of_error(error: BaseException) -> Kind | None:
    """The kind of an error of this process, or of an error that caused it."""
    seen: BaseException | None = error
    while seen is not None:
        kind = kind_of(_described(seen))
        if kind is not None:
            return kind
        seen = seen.__cause__ or seen.__context__
    return None


def kind_of_failures(failures: Mapping[int, RankFailure], *, killed_for_memory: bool = False) -> Kind | None:
    """The kind of a failed phase, from the ends of its ranks; None: the training itself failed.

    When one rank fails, the others lose their connections to it. So the kind is ``TRANSPORT`` only when no
    rank noted any other error.
    """
    for failure in failures.values():
        code = failure.exit_code
        if failure.error is None and code is not None and code not in (-signal.SIGTERM, -signal.SIGKILL):
            return None  # it ended without noting an error: the cause is unknown
    named = sorted((one for one in failures.values() if one.error is not None), key=lambda one: one.seconds)
    kinds = [kind_of(one.error or "") for one in named]
    others = [kind for kind in kinds if kind is not TRANSPORT]
    if others:
        return others[0]
    if any(failure.exit_code == -signal.SIGKILL for failure in failures.values()):
        return KILLED_FOR_MEMORY if killed_for_memory else KILLED_RANK
    return TRANSPORT if kinds else None


def note_file(directory: Path, rank: int) -> Path:
    """The file in which a rank notes its failure."""
    return directory / f"rank{rank}.failure"


def note(directory: Path, rank: int, error: BaseException) -> None:
    """Note time and error of this rank; the agent's times, whole seconds, do not show who failed first."""
    content = {"seconds": time.time(), "error": _described(error)}
    if isinstance(error, UsageError):  # a damaged checkpoint, for example: no fault of the training
        content["usage_error"] = str(error)
    note_file(directory, rank).write_text(json.dumps(content))


def failure_of(
    directory: Path,
    exit_codes: Mapping[int, int],
    *,
    max_restarts: int = 0,
    kills_wanted: bool = False,
    killed_for_memory: bool = False,
) -> TaskError:
    """The error that names the rank that failed first, and its cause; also written to ``failure.json``.

    ``exit_codes``: of the ranks that had ended when the agent looked; negative: the signal that killed it;
    0: it left without finishing.
    ``kills_wanted``: the case kills ranks, so a killed rank is not an infrastructure failure.
    """
    failures = {rank: RankFailure(exit_code=code) for rank, code in exit_codes.items()}
    for path in directory.glob("rank*.failure"):
        rank = int(path.stem.removeprefix("rank"))
        failures[rank] = RankFailure(exit_code=exit_codes.get(rank), **_read_note(path))
    rank, reason = _first(failures)
    if failures[rank].usage_error is not None:
        return UsageError(failures[rank].usage_error)
    if max_restarts:
        reason += f"; given up after {max_restarts} restarts (--max-restarts {max_restarts})"
    kind = kind_of_failures(failures, killed_for_memory=killed_for_memory)
    kind = None if kills_wanted and kind is KILLED_RANK else kind
    if kind is KILLED_FOR_MEMORY:
        reason = host_memory.killed()
    log = rank_log(directory, rank)
    return _recorded(directory, f"rank {rank} {reason}", f"; its log: {log}; last lines:\n{_tail(log)}", kind)


@contextlib.contextmanager
def classify_agent_errors(directory: Path) -> Iterator[None]:
    """Turn errors of the elastic agent itself that are of a known kind into infrastructure failures.

    Raises:
        InfrastructureFailure: in the place of such an error.
    """
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        kind = kind_of_error(error)
        if kind is None:
            raise
        message = f"the elastic agent failed: {_described(error)}"
        raise _recorded(directory, message, "", kind) from error


def _recorded(directory: Path, message: str, details: str, kind: Kind | None) -> TaskError:
    content = {"kind": kind.name if kind else None, "message": message.splitlines()[0]}
    with contextlib.suppress(CannotRun):  # on a full disk the message reports it
        write_atomically(directory / FAILURE_FILE, json.dumps(content, indent=1))
    if kind is None:
        return TrainingFailed(message + details)
    return InfrastructureFailure(f"{kind.name}: {message}{details}\n{kind.cure}", kind)


def _read_note(path: Path) -> dict[str, Any]:
    """The note of a rank; on a full disk there is none."""
    with contextlib.suppress(ValueError):
        return json.loads(path.read_text())
    why = os.strerror(errno.ENOSPC) if disk_is_full(path) else "killed on the way"
    return {"seconds": path.stat().st_mtime, "error": f"it could not write why it failed ({why})"}


def _first(failures: Mapping[int, RankFailure]) -> tuple[int, str]:
    """The rank that failed first, and its cause; a rank that was killed or left at once noted none."""
    noted = {rank: failure for rank, failure in failures.items() if failure.error is not None}
    silent = {rank: failure.exit_code for rank, failure in failures.items() if rank not in noted}
    ended = [rank for rank, code in silent.items() if code not in (None, -signal.SIGTERM)]
    if noted and not ended:
        # a lost connection is a consequence when another rank has failed
        causes = {rank: one for rank, one in noted.items() if kind_of(one.error or "") is not TRANSPORT}
        rank = min(causes or noted, key=lambda rank: noted[rank].seconds)
        return rank, f"failed: {(noted[rank].error or '').strip().splitlines()[0]}"
    rank = min(ended or failures)
    code = failures[rank].exit_code or 0
    if code < 0:
        return rank, f"was killed by {signal.Signals(-code).name}"
    return rank, f"ended with exit code {code} before it had finished, and reported no error"


def _tail(log: Path, lines: int = 12) -> str:
    if not log.is_file():
        return "  (no log)"
    return "\n".join(f"  | {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])
