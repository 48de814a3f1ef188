"""Failures of the surroundings, told from failures of the training, by what the ranks said when they ended.

A failed transport, a port taken, a full disk, no memory, a killed process: none of them is a regression, and
none ever ends with "does not match". What is not surely one of these counts as a failure of the training.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.util.exits import CANNOT_RUN, TRAINING_FAILED, TaskError


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of failure. ``retry``: whether trying again is honest, that is, cannot hide a regression."""

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
# Not tried again: a training that needs more memory than it did is a regression, which need not always show.
OUT_OF_MEMORY = Kind(
    name="out of memory",
    exit_code=TRAINING_FAILED,
    retry=False,
    cure="free memory, or find out why the training needs more than it did (mem-growth-bytes)",
)
KILLED_RANK = Kind(
    name="killed rank",
    exit_code=TRAINING_FAILED,
    retry=True,
    cure="a SIGKILL comes from outside the training: find out who sent it, or try again (--retries 1)",
)
KILLED_AGENT = Kind(
    name="killed agent",
    exit_code=TRAINING_FAILED,
    retry=True,
    cure="a SIGKILL comes from outside the training: find out who sent it, or try again (--retries 1)",
)
KINDS = (TRANSPORT, PORT_TAKEN, NO_SPACE, OUT_OF_MEMORY, KILLED_RANK, KILLED_AGENT)

# In this order: a full disk or no memory may make a connection fail, never the other way round. That a
# collective timed out is none of them: it is how a training that hangs ends.
_SIGNS = (
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


# Python's own pipe or socket, to a process that the rank started: its checkpoint worker may have failed.
_LOCAL = re.compile(r"(?:BrokenPipe|ConnectionReset|ConnectionAborted)Error: ")


class InfrastructureFailure(TaskError):
    """A phase ended by a failure of a known kind."""

    def __init__(self, message: str, kind: Kind) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = kind.exit_code


@dataclass(frozen=True, kw_only=True)
class RankFailure:
    """How a rank ended: what it said of its error, if anything, when (seconds), and its exit code (negative:
    the signal that ended it; None: not known, since the agent looked before it had ended). ``usage_error``:
    what is wrong with the input, where the error was of that kind.
    """

    error: str | None = None
    seconds: float = 0.0
    exit_code: int | None = None
    usage_error: str | None = None


def kind_of(message: str) -> Kind | None:
    """The kind of failure that a message tells of; None: none of these."""
    found = next((kind for kind, sign in _SIGNS if re.search(sign, message)), None)
    return None if found is TRANSPORT and _LOCAL.match(message) else found


def kind_of_error(error: BaseException) -> Kind | None:
    """The kind of an error of this process, or of one of those that caused it."""
    seen: BaseException | None = error
    while seen is not None:
        kind = kind_of(f"{type(seen).__name__}: {seen}")
        if kind is not None:
            return kind
        seen = seen.__cause__ or seen.__context__
    return None


def kind_of_failures(failures: Mapping[int, RankFailure], *, killed_for_memory: bool = False) -> Kind | None:
    """Why a phase failed, from how its ranks ended; None: by the training itself.

    When one rank fails, the others lose their connections to it. So the transport is to blame only when no
    rank has anything else to say for itself.
    """
    for failure in failures.values():
        code = failure.exit_code
        if failure.error is None and code is not None and code not in (-signal.SIGTERM, -signal.SIGKILL):
            return None  # it ended without a word: nobody knows why
    named = sorted((one for one in failures.values() if one.error is not None), key=lambda one: one.seconds)
    kinds = [kind_of(one.error or "") for one in named]
    others = [kind for kind in kinds if kind is not TRANSPORT]
    if others:
        return others[0]
    if any(failure.exit_code == -signal.SIGKILL for failure in failures.values()):
        return OUT_OF_MEMORY if killed_for_memory else KILLED_RANK
    return TRANSPORT if kinds else None


def memory_kills(root: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes of this control group the kernel has killed for want of memory; 0 if unknown."""
    for name in ("memory.events", "memory/memory.oom_control"):
        path = root / name
        text = path.read_text() if path.is_file() else ""
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        if found:
            return int(found[1])
    return 0
