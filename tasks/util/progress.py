"""A board in shared memory on which every rank of a phase shows how far it is.

The launcher makes it before it forks the ranks; they inherit it. Ranks write only their own row, so no lock
is needed. It costs a rank less than a microsecond a note.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import time
from dataclasses import dataclass

# In the order in which a rank that has completed a given number of steps goes through them.
ACTIVITIES = (
    "starting",
    "loading checkpoint",
    "logging",
    "saving checkpoint",
    "forward and backward",
    "optimizer step",
    "finished",
)
_OF_THE_STEP_BEFORE = ("logging", "saving checkpoint")
_ROW = struct.Struct("=qqqddq")  # process id, step, activity, seconds (monotonic), lm loss, rank


def say(line: str) -> None:
    """Print a line beside a phase. Where nobody reads any more, or the disk is full, the phase goes on."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


@dataclass(frozen=True, kw_only=True)
class RankProgress:
    """What a rank last noted. ``rank`` counts all of the job; ``step`` completed steps. ``seconds`` is on
    ``time.monotonic``'s clock, the same in every process of this node.
    """

    rank: int
    process_id: int
    step: int
    activity: str
    seconds: float
    loss: float

    @property
    def progress(self) -> tuple[int, int, float]:
        """What is smallest for the rank that is furthest behind."""
        return self.step, ACTIVITIES.index(self.activity), self.seconds

    @property
    def place(self) -> str:
        """The step that it works on, and what it does there."""
        return f"step {self.step + (self.activity not in _OF_THE_STEP_BEFORE)}, {self.activity}"


class ProgressBoard:
    """One row a rank of this node. A node's ranks follow one another, and every node has as many."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._memory = mmap.mmap(-1, _ROW.size * world_size)

    def note(
        self, rank: int, *, process_id: int, step: int, activity: str, loss: float = float("nan")
    ) -> None:
        """Write ``rank``'s row."""
        row = (process_id, step, ACTIVITIES.index(activity), time.monotonic(), loss, rank)
        _ROW.pack_into(self._memory, rank % self.world_size * _ROW.size, *row)

    def rows(self) -> list[RankProgress]:
        """All rows, in the order of ranks; a rank that noted nothing yet has process id 0."""
        rows = []
        for index in range(self.world_size):
            process_id, step, activity, seconds, loss, rank = _ROW.unpack_from(
                self._memory, index * _ROW.size
            )
            rows.append(
                RankProgress(
                    rank=rank if process_id else index,
                    process_id=process_id,
                    step=step,
                    activity=ACTIVITIES[activity],
                    seconds=seconds,
                    loss=loss,
                )
            )
        return rows
