"""``--retries N``: retry a phase, in a new process, after an infrastructure failure.

Only kinds of ``tasks.launch.failures`` with ``retry`` are retried. Files of a failed try are kept in
``phase<N>.failed<M>/`` and named in ``retries.json``, which the report shows. A comparison is never repeated.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tasks.launch.failures import FAILURE_FILE, KILLED_AGENT, KILLED_FOR_MEMORY, KINDS, Kind
from tasks.machine import host_memory
from tasks.records import kept_checkpoint
from tasks.records.run import RETRIES_FILE, read_retries
from tasks.util.exits import TRAINING_FAILED
from tasks.util.files import read_json_object, write_atomically
from tasks.util.processes import end_with_parent

_CLOCK_S = 0.1  # by which the clock of a file system lags


def supervise(task: str, argv: Sequence[str], *, run_dir: Path, phase: int, retries: int) -> int:
    """Run ``python -m tasks.<task>`` with ``argv`` until it succeeds or the training itself fails, with at
    most ``retries`` retries. Returns its exit code; a task that was killed counts as failed training.
    """
    for attempt in range(1, retries + 2):
        begun, memory_kills = time.time(), host_memory.kills()
        code = _run([sys.executable, "-m", f"tasks.{task}", *argv, "--retries", "0"])
        kind, message = _why(run_dir / f"phase{phase}", code, begun, memory_kills)
        if kind is None:  # success, or the training itself failed
            break
        print(f"infrastructure failure in phase {phase} ({kind.name}): {message}", file=sys.stderr)
        kept = _next_free(run_dir, phase)
        again = kind.retry and attempt <= retries
        name = kept.name if again else ""
        _note(run_dir, phase=phase, attempt=attempt, kind=kind.name, message=message, kept=name)
        if not again:
            print(f"not retried: {kind.cure}", file=sys.stderr)
            break
        _move_aside(run_dir, phase, kept)
        print(f"phase {phase}: try {attempt + 1} of {retries + 1}; files of the last one: {kept}", flush=True)
    return code if code >= 0 else kind.exit_code if kind else TRAINING_FAILED


def _run(command: Sequence[str]) -> int:
    """Run a child that ends with this process and gets its SIGINT and SIGTERM."""
    child: subprocess.Popen | None = None
    early: list[int] = []

    def hand_on(number: int, _: object) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=end_with_parent)
        for number in early:
            child.send_signal(number)
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _why(directory: Path, code: int, begun: float, memory_kills: int) -> tuple[Kind | None, str]:
    """The kind of failure and its message for the try that began at ``begun`` (seconds since 1970), when the
    kernel had killed ``memory_kills`` processes for lack of memory. A failure file of an earlier try, or one
    with another exit code, is ignored.
    """
    if code == -signal.SIGKILL and host_memory.kills() > memory_kills:
        return KILLED_FOR_MEMORY, f"the elastic agent {host_memory.killed()}"
    if code == -signal.SIGKILL:
        return KILLED_AGENT, "the elastic agent was killed by SIGKILL"
    path = directory / FAILURE_FILE
    if code <= 0 or not path.is_file() or path.stat().st_mtime < begun - _CLOCK_S:
        return None, ""
    failure = read_json_object(path)
    kinds = (kind for kind in KINDS if kind.name == failure.get("kind") and kind.exit_code == code)
    return next(kinds, None), str(failure.get("message"))


def _next_free(run_dir: Path, phase: int) -> Path:
    folders = (run_dir / f"phase{phase}.failed{number}" for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def _note(run_dir: Path, **failed: object) -> None:
    content = {"failed": [*read_retries(run_dir), failed]}
    write_atomically(run_dir / RETRIES_FILE, json.dumps(content, indent=1))


def _move_aside(run_dir: Path, phase: int, kept: Path) -> None:
    """Move all files of the phase: none may be taken for the next try's."""
    if (run_dir / f"phase{phase}").exists():
        (run_dir / f"phase{phase}").rename(kept)
    kept.mkdir(exist_ok=True)
    for name in ("checkpoints", "case.json", kept_checkpoint.IN_RUN) if phase == 1 else ():
        if (run_dir / name).exists():
            shutil.move(run_dir / name, kept / name)
