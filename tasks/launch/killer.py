"""Kill ranks from outside, as a case of type ``crash-resume`` demands.

A thread beside the elastic agent reads the progress board and sends SIGKILL; ranks have no part in it. The
elastic agent starts them again.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.cases.case import Kill
from tasks.util.progress import ACTIVITIES, ProgressBoard, RankProgress, say

_POLL_S = 0.005
_DEATH_WITHIN_S = 10.0
_LOGGED = ACTIVITIES.index("logging")


@dataclass(frozen=True, kw_only=True)
class Killed:
    """A kill that was carried out. ``processes``: process ids by rank, from the board; ``ended``: True when
    the kernel reported the end of all of them; ``newest_checkpoint``: the newest complete one just before.
    """

    after_step: int
    processes: dict[int, int]
    ended: bool
    newest_checkpoint: int | None


class Killer:
    """A thread; a context manager. ``kills`` are carried out in order, each in an attempt of its own."""

    def __init__(
        self, board: ProgressBoard, kills: Sequence[Kill], newest_checkpoint: Callable[[], int | None]
    ) -> None:
        self.done: list[Killed] = []
        self._board = board
        self._kills = kills
        self._newest_checkpoint = newest_checkpoint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)

    def __enter__(self) -> Killer:
        if self._kills:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._kills:
            self._thread.join()

    def _run(self) -> None:
        killed: set[int] = set()
        for kill in self._kills:
            if not self._wait_for(kill, killed):
                return
            done = self._carry_out(kill)
            killed |= set(done.processes.values())
            self.done.append(done)
            ranks = ", ".join(f"rank {rank} (process {done.processes[rank]})" for rank in kill.ranks)
            say(f"killed {ranks} after step {kill.after_step}, as the case asks for")

    def _wait_for(self, kill: Kill, killed: set[int]) -> bool:
        """Until every rank has logged the step, in an attempt after that of the kill before; False: ended."""
        while not self._stop.wait(_POLL_S):
            rows = self._board.rows()
            started_again = not any(row.process_id in killed for row in rows)
            if started_again and all(has_logged(row, kill.after_step) for row in rows):
                return True
        return False

    def _carry_out(self, kill: Kill) -> Killed:
        rows = self._board.rows()
        processes = {rank: rows[rank].process_id for rank in kill.ranks}
        newest = self._newest_checkpoint()
        with contextlib.ExitStack() as stack:
            handles = []
            for process_id in processes.values():
                with contextlib.suppress(ProcessLookupError):  # it ended by itself: not killed, so not a kill
                    handles.append(os.pidfd_open(process_id))
                    stack.callback(os.close, handles[-1])
                    signal.pidfd_send_signal(handles[-1], signal.SIGKILL)
            ended = len(handles) == len(processes) and all(_ends(handle) for handle in handles)
        return Killed(after_step=kill.after_step, processes=processes, ended=ended, newest_checkpoint=newest)


def has_logged(row: RankProgress, step: int) -> bool:
    """True when the rank has completed ``step`` and logged its measurements."""
    return row.step > step or (row.step == step and ACTIVITIES.index(row.activity) > _LOGGED)


def _ends(handle: int) -> bool:
    """A process's descriptor becomes readable when the process has ended."""
    return bool(select.select([handle], [], [], _DEATH_WITHIN_S)[0])
