"""Ends a process that imports without end. No rank is there yet, so the watchdog has nothing to watch."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator

from tasks.util.exits import HANG


@contextlib.contextmanager
def no_longer_than(seconds: float, what: str) -> Iterator[None]:
    """When the block takes longer, the process says where this thread stands, and ends with ``HANG``."""
    timer = threading.Timer(seconds, _end, (seconds, what, threading.get_ident()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(seconds: float, what: str, thread: int) -> None:
    stack = "".join(traceback.format_stack(sys._current_frames()[thread]))
    print(
        f"error: {what} has not ended after {seconds:.0f} s; it stands at\n{stack}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(HANG)
