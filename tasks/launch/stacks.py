"""Stacks of the processes of a phase that hangs: Python's, and native frames where py-spy is installed.

On SIGUSR1 a rank, and every process that it forked, writes its stacks to ``rank<N>.stack``
(``faulthandler``); on SIGUSR2 it writes its flight recorder. A stopped process cannot do that; py-spy reads
its stack from outside: ``rank<N>.native-stack``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tasks.launch import collectives
from tasks.util.processes import descendants

_ANSWERS_S = 3.0
_SETTLED_S = 0.2
_RECORDS_S = 3.0
_PY_SPY_S = 15.0


def collect(directory: Path, processes: Mapping[int, int]) -> dict[int, list[str]]:
    """The innermost Python line of each rank, the collective that it waits in, if any, and a line for each
    process that it started. ``processes``: process ids of the ranks that are alive.
    """
    stopped = {rank for rank, process_id in processes.items() if is_stopped(process_id)}
    running = {rank: processes[rank] for rank in processes.keys() - stopped}
    children = {
        rank: [child.pid for child in descendants(process_id)] for rank, process_id in processes.items()
    }
    before = {rank: _text(directory, rank) for rank in processes}
    _wait_for_answers(directory, {rank: before[rank] for rank in running if _ask(running[rank])})
    said = {rank: [_said(directory, rank, before[rank], rank in stopped)] for rank in processes}
    for rank, one in _waiting(directory, running).items():
        said[rank].append(str(one))
    # one after the other: the processes of a rank write into one file
    for index in range(max(map(len, children.values()), default=0)):
        one_each = {rank: own[index] for rank, own in children.items() if index < len(own)}
        before = {rank: _text(directory, rank) for rank in one_each}
        asked = [rank for rank, child in one_each.items() if not is_stopped(child) and _ask(child)]
        _wait_for_answers(directory, {rank: before[rank] for rank in asked})
        for rank, child in one_each.items():
            line = _said(directory, rank, before[rank], is_stopped(child))
            said[rank].append(f"its process {child}: {line}")
    return said


def _waiting(directory: Path, processes: Mapping[int, int]) -> dict[int, collectives.Waiting]:
    """The collective that each rank waits in; asked after the stacks, which would show this handler."""
    files = {rank: collectives.record_file(directory, rank) for rank in processes}
    for path in files.values():
        path.unlink(missing_ok=True)
    asked = [rank for rank, process_id in processes.items() if _ask(process_id, signal.SIGUSR2)]
    deadline = time.monotonic() + _RECORDS_S
    while not all(files[rank].exists() for rank in asked) and time.monotonic() < deadline:
        time.sleep(0.05)
    return collectives.waiting(collectives.read_records(directory, processes))


def collect_native(directory: Path, processes: Mapping[int, int]) -> bool:
    """Have py-spy write the stacks of each rank and of what it started; False where it is not installed."""
    py_spy = shutil.which("py-spy")
    if py_spy is None:
        return False
    running = []
    for rank, process_id in processes.items():
        with open(directory / f"rank{rank}.native-stack", "w") as file:
            for one in (process_id, *(child.pid for child in descendants(process_id))):
                command = [py_spy, "dump", "--native", "--pid", str(one)]
                running.append(subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL))
    deadline = time.monotonic() + _PY_SPY_S
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return True


def is_stopped(process_id: int) -> bool:
    """True when a signal (SIGSTOP) or a debugger has stopped the process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt"
    return False


def _ask(process_id: int, number: int = signal.SIGUSR1) -> bool:
    """Send the signal, only to a process that handles it: others would end. True when it was sent."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process_id}/status").read_text()
        caught = re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
        if caught and int(caught[1], 16) >> (number - 1) & 1:
            os.kill(process_id, number)
            return True
    return False


def _wait_for_answers(directory: Path, before: Mapping[int, str]) -> None:
    """Until every rank's file has grown beyond what was in it, and no longer grows."""
    deadline = time.monotonic() + _ANSWERS_S
    last: dict[int, str] = {}
    while time.monotonic() < deadline:
        texts = {rank: _text(directory, rank) for rank in before}
        if texts == last and all(len(texts[rank]) > len(before[rank]) for rank in before):
            return
        last = texts
        time.sleep(_SETTLED_S)


def _text(directory: Path, rank: int) -> str:
    path = directory / f"rank{rank}.stack"
    return path.read_text(errors="replace") if path.is_file() else ""


def _said(directory: Path, rank: int, before: str, stopped: bool) -> str:
    text = _text(directory, rank)[len(before) :]
    if stopped:
        return "stopped by a signal (SIGSTOP)"
    main_thread = text.split("Current thread")[-1] if "Current thread" in text else text
    frames = [line.strip() for line in main_thread.splitlines() if line.strip().startswith("File ")]
    return f"in {frames[0][5:]}" if frames else "gave no stack"
