"""Why a phase failed: what its ranks noted when they failed, how they ended, and what that comes to."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.launch.infrastructure import (
    KILLED_RANK,
    TRANSPORT,
    InfrastructureFailure,
    Kind,
    RankFailure,
    kind_of,
    kind_of_error,
    kind_of_failures,
)
from tasks.records.attempts import rank_log
from tasks.util.exits import CannotRun, TaskError, TrainingFailed, UsageError
from tasks.util.files import disk_is_full, write_atomically

FAILURE_FILE = "failure.json"  # in a phase's folder


def note_file(directory: Path, rank: int) -> Path:
    """Where a rank notes its failure."""
    return directory / f"rank{rank}.failure"


def note(directory: Path, rank: int, error: BaseException) -> None:
    """Say when and why this rank failed. The agent's own times are whole seconds: too coarse to tell the
    rank that failed from those that lost their connection to it."""
    content = {"seconds": time.time(), "error": f"{type(error).__name__}: {error}"}
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
    """The error that says which rank failed first, and why; ``failure.json`` says it, too.

    ``exit_codes``: of the ranks that had ended when the agent looked; negative: the signal that killed it;
    0: it left without finishing.
    ``kills_wanted``: the case kills ranks, so that a killed one is no failure of the surroundings.
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
    log = rank_log(directory, rank)
    return _told(directory, f"rank {rank} {reason}", f"; its log: {log}; last lines:\n{_tail(log)}", kind)


@contextlib.contextmanager
def told_by_kind(directory: Path) -> Iterator[None]:
    """Errors: ``InfrastructureFailure`` for an error of the elastic agent itself that is of a known kind."""
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        kind = kind_of_error(error)
        if kind is None:
            raise
        message = f"the elastic agent failed: {type(error).__name__}: {error}"
        raise _told(directory, message, "", kind) from error


def _told(directory: Path, message: str, details: str, kind: Kind | None) -> TaskError:
    content = {"kind": kind.name if kind else None, "message": message.splitlines()[0]}
    with contextlib.suppress(CannotRun):  # on a full disk the message says it
        write_atomically(directory / FAILURE_FILE, json.dumps(content, indent=1))
    if kind is None:
        return TrainingFailed(message + details)
    return InfrastructureFailure(f"{kind.name}: {message}{details}\n{kind.cure}", kind)


def _read_note(path: Path) -> dict[str, Any]:
    """What a rank noted; on a full disk it could not."""
    with contextlib.suppress(ValueError):
        return json.loads(path.read_text())
    why = os.strerror(errno.ENOSPC) if disk_is_full(path) else "killed on the way"
    return {"seconds": path.stat().st_mtime, "error": f"it could not write why it failed ({why})"}


def _first(failures: Mapping[int, RankFailure]) -> tuple[int, str]:
    """The rank that failed first, and why; those that were killed or left at once said nothing themselves."""
    noted = {rank: failure for rank, failure in failures.items() if failure.error is not None}
    ended = [
        rank
        for rank, failure in failures.items()
        if rank not in noted and failure.exit_code not in (None, -signal.SIGTERM)
    ]
    if noted and not ended:
        # what all others say when one has failed is no cause
        causes = {rank: one for rank, one in noted.items() if kind_of(one.error or "") is not TRANSPORT}
        rank = min(causes or noted, key=lambda rank: noted[rank].seconds)
        return rank, f"failed: {(noted[rank].error or '').strip().splitlines()[0]}"
    rank = min(ended or failures)
    code = failures[rank].exit_code or 0
    if code < 0:
        return rank, f"was killed by {signal.Signals(-code).name}"
    return rank, f"ended with exit code {code} before it had finished, and did not say why"


def _tail(log: Path, lines: int = 12) -> str:
    if not log.is_file():
        return "  (no log)"
    return "\n".join(f"  | {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])
