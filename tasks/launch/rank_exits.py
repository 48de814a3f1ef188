"""Exit codes of all ranks of an attempt, which torch's elastic agent does not report by itself.

The agent names one of the ranks that had ended when it looked, and ignores exit code 0: when a rank leaves
early (``os._exit(0)``, or a library that does so), the agent waits forever.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def all_exit_codes(
    first_rank: int, *, restarts: int, before_restart: Callable[[], object]
) -> Iterator[dict[int, int]]:
    """Yield the exit codes of all ranks that failed by themselves in the last attempt, once it has ended; 0:
    the rank left without finishing, which fails the attempt here.

    A killed rank reports nothing, and the agent may name a rank that only lost its connection to it.
    ``first_rank``: the first on this node. ``before_restart`` is called once for each attempt that failed,
    when ``restarts`` allow another one.
    """
    from torch.distributed.elastic.multiprocessing.api import MultiprocessContext

    codes: dict[int, int] = {}
    reported: list[Any] = []  # torch closes an attempt that failed twice
    close, poll = MultiprocessContext._close, MultiprocessContext._poll

    def note_and_close(context: Any, *args: Any, **keywords: Any) -> None:
        codes.clear()
        codes.update({first_rank + rank: code for rank, code in _ended_by_themselves(context).items()})
        close(context, *args, **keywords)
        if codes and context not in reported:
            reported.append(context)
            if len(reported) <= restarts:
                before_restart()

    def poll_and_look(context: Any) -> Any:
        result = poll(context)
        if result is not None or 0 not in _ended_by_themselves(context).values():
            return result
        return _failed_without_finishing(context)

    MultiprocessContext._close, MultiprocessContext._poll = note_and_close, poll_and_look
    try:
        yield codes
    finally:
        MultiprocessContext._close, MultiprocessContext._poll = close, poll


def _ended_by_themselves(context: Any) -> dict[int, int]:
    """Exit codes by local rank, without those that torch ended because another one had failed.

    A rank that has finished waits until all have: before that, exit code 0 is that of one which left.
    """
    if context._pc is None or context._worker_finished_event.is_set():
        return {}
    ended = {rank: process.exitcode for rank, process in enumerate(context._pc.processes)}
    return {rank: code for rank, code in ended.items() if code not in (None, -signal.SIGTERM)}


def _failed_without_finishing(context: Any) -> Any:
    """The result that torch returns for a rank that failed; the other ranks are ended."""
    from torch.distributed.elastic.multiprocessing.api import RunProcsResult
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    failures = {
        rank: ProcessFailure(
            local_rank=rank,
            pid=context._pc.processes[rank].pid,
            exitcode=code,
            error_file=context.error_files[rank],
        )
        for rank, code in _ended_by_themselves(context).items()
    }
    context.close()
    return RunProcsResult(failures=failures, stdouts=context.stdouts, stderrs=context.stderrs)
