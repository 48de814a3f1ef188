"""Watch the progress board of a phase: show progress, and end a phase in which no rank makes any.

In a pipeline a hang shows as silence: every rank waits for another. The report names the rank that is behind,
its step and activity, and where each rank's Python code stands.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tasks.launch import stacks
from tasks.util.progress import ProgressBoard, RankProgress, say

FIRST_STEP_TIMEOUT_S = 60.0  # imports, groups, first allocations, compilation
SLOWEST_STEP_FACTOR = 10.0
_POLL_S = 0.1
_PLAIN_LINE_EVERY_S = 10.0
_SAY_GONE_AFTER_S = 3.0


class Watchdog:
    """A thread beside the elastic agent; a context manager.

    ``hang_timeout_s``: seconds without progress of any rank that count as a hang; None: ten times the slowest
    step so far, and never less than ``FIRST_STEP_TIMEOUT_S``.
    ``several_nodes``: until there is a rank, the agent waits for the others; that has a limit of its own.
    """

    def __init__(
        self,
        board: ProgressBoard,
        directory: Path,
        steps: tuple[int, int],
        hang_timeout_s: float | None,
        *,
        several_nodes: bool = False,
    ) -> None:
        self.hang_report: str | None = None
        self.first_note_s: float | None = None
        self._board = board
        self._directory = directory
        self._hang_timeout_s = hang_timeout_s
        self._several_nodes = several_nodes
        self._killed: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._display = _Display(steps)
        self._pace = Pace(time.monotonic())

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._display.close(self._board.rows())

    def _watch(self) -> None:
        last_change = time.monotonic()
        last_notes: list[tuple[int, float]] = []
        gone_since, said_gone = None, False
        while not self._stop.wait(_POLL_S):
            rows, now = self._board.rows(), time.monotonic()
            notes = [(row.process_id, row.seconds) for row in rows]
            gone_since = (gone_since or now) if _are_gone(rows) else None
            if gone_since and not said_gone and now - gone_since > _SAY_GONE_AFTER_S:
                said_gone = True
                say("the ranks of this node have ended; waiting for the other nodes to start again")
            waits_for_nodes = self._several_nodes and not any(row.process_id for row in rows)
            if notes != last_notes or gone_since or waits_for_nodes:
                last_notes, last_change = notes, now
                if self.first_note_s is None and any(row.process_id for row in rows):
                    self.first_note_s = now
            self._pace.note(max(row.step for row in rows), now)
            self._display.update(rows)
            if now - last_change > self._timeout_s():
                self._end_hang(rows, now - last_change)
                break
        while self.hang_report is not None and not self._stop.wait(_POLL_S):
            self._kill(self._board.rows())  # ranks that the agent started again: a hang ends the phase

    def _timeout_s(self) -> float:
        if self._hang_timeout_s is not None:
            return self._hang_timeout_s
        return max(FIRST_STEP_TIMEOUT_S, SLOWEST_STEP_FACTOR * self._pace.slowest_step_s)

    def _end_hang(self, rows: list[RankProgress], silence_s: float) -> None:
        alive = {row.rank: row.process_id for row in rows if row.process_id}
        said = stacks.collect(self._directory, alive)
        native = stacks.collect_native(self._directory, alive)
        behind = min(rows, key=lambda row: row.progress)
        lines = [
            f"no rank made progress for {silence_s:.0f} s; rank {behind.rank} is behind ({behind.place})"
        ]
        for row in rows:
            silent_s = time.monotonic() - row.seconds
            own, *children = said.get(row.rank, ["gave no stack"])
            lines.append(f"  rank {row.rank}: {row.place}, silent for {silent_s:.0f} s; {own}")
            lines += [f"    {child}" for child in children]
        lines.append(f"  whole stacks: {self._directory}/rank<N>.stack; logs: {self._directory}/rank<N>.log")
        if native:
            lines.append(f"  with native frames, by py-spy: {self._directory}/rank<N>.native-stack")
        self.hang_report = "\n".join(lines)
        self._kill(rows)

    def _kill(self, rows: list[RankProgress]) -> None:
        for process_id in {row.process_id for row in rows} - {0, *self._killed}:
            self._killed.add(process_id)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)


class Pace:
    """Duration of steps: the slowest so far, without the first step, which allocates and compiles."""

    def __init__(self, now: float) -> None:
        self.slowest_step_s = 0.0
        self._step, self._since = -1, now

    def note(self, step: int, now: float) -> None:
        """Note the step completed at ``now`` (seconds); call often, also with the same step again."""
        if step == self._step:
            return
        if step > self._step > 0:  # else all ranks were started again, and go on from a checkpoint
            self.slowest_step_s = max(self.slowest_step_s, now - self._since)
        self._step, self._since = step, now


def _are_gone(rows: list[RankProgress]) -> bool:
    """True when all ranks have ended: the agent waits for another node before it starts them again."""
    noted = [row for row in rows if row.process_id]
    return bool(noted) and not any(Path(f"/proc/{row.process_id}").exists() for row in noted)


class _Display:
    """A progress bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, steps: tuple[int, int]) -> None:
        self._first, self._last = steps
        self._begin: float | None = None
        self._begin_step = self._first
        self._next_line_s = 0.0
        self._shown = self._first - 1
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("lm loss {task.fields[loss]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            total = self._last - self._first + 1
            self._task = self._bar.add_task(f"steps {self._first}-{self._last}", total=total, loss="-")
            self._bar.start()

    def update(self, rows: list[RankProgress]) -> None:
        step, loss = max(row.step for row in rows), rows[-1].loss
        if self._begin is not None and step < self._shown:
            say(f"all ranks were started again; the last step before was {self._shown}")
            self._shown, self._begin, self._next_line_s = step, None, 0.0
        if step <= self._shown or step < self._first:
            return
        self._shown, now = step, time.monotonic()
        if self._begin is None:
            self._begin, self._begin_step = now, step
        if self._bar is not None:
            text = f"{loss:.4f}" if loss == loss else "-"
            self._bar.update(self._task, completed=step - self._first + 1, loss=text)
        elif now >= self._next_line_s or step == self._last:
            self._next_line_s = now + _PLAIN_LINE_EVERY_S
            self._print_line(step, rows[-1], now)

    def _print_line(self, step: int, last_rank: RankProgress, now: float) -> None:
        done = step - self._begin_step
        line = f"step {step}/{self._last}"
        if last_rank.loss == last_rank.loss:
            line += f"  lm loss {last_rank.loss:.4f}"
        if done:
            step_s = (now - self._begin) / done
            line += f"  {step_s:.3f} s a step  {step_s * (self._last - step):.0f} s left"
        say(line)

    def close(self, rows: list[RankProgress]) -> None:
        if self._bar is not None:
            self.update(rows)
            self._bar.stop()
