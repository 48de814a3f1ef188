"""Relations between processes that the kernel keeps: end with the parent, adopt orphans, allow a tracer."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from typing import Any

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PTRACER = 0x59616D61


def end_with_parent(number: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Have the kernel send this process signal ``number`` when its parent ends.

    ``parent``: the process id of the parent, which may have ended before this was asked for.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def be_killed_first() -> None:
    """Have the kernel, when memory runs out, end this process before its parent, which reports the end."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("500")


def descendants(process_id: int) -> list[Any]:
    """All processes below this one, as psutil's; none when it has ended."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process_id).children(recursive=True)
    return []


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def allow_tracer(process_id: int) -> None:
    """Let another process trace this one, and take its file descriptors, where the kernel has Yama."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(process_id), 0, 0, 0)
