"""The progress board: shared memory in which each rank of a phase notes its step and activity.

The launcher creates it before it forks the ranks. Each rank writes only its own row, so no lock is needed;
a note takes less than a microsecond.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import time
from dataclasses import dataclass

# In the order in which a rank goes through them between two completed steps.
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
    """Print a line during a phase. A closed pipe or a full disk does not stop the phase."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


@dataclass(frozen=True, kw_only=True)
class RankProgress:
    """A rank's last note. ``rank``: global; ``step``: completed steps; ``seconds``: ``time.monotonic``'s."""

    rank: int
    process_id: int
    step: int
    activity: str
    seconds: float
    loss: float

    @property
    def progress(self) -> tuple[int, int, float]:
        """Sort key: the rank that is furthest behind has the smallest."""
        return self.step, ACTIVITIES.index(self.activity), self.seconds

    @property
    def place(self) -> str:
        """The step that the rank works on, and its activity."""
        return f"step {self.step + (self.activity not in _OF_THE_STEP_BEFORE)}, {self.activity}"


class ProgressBoard:
    """One row per rank of this node. Ranks of a node are consecutive; all nodes have the same number."""

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
        """All rows, in the order of ranks; a rank without a note yet has process id 0."""
        rows = enumerate(_ROW.iter_unpack(self._memory))
        return [
            RankProgress(
                rank=rank if process_id else index,
                process_id=process_id,
                step=step,
                activity=ACTIVITIES[activity],
                seconds=seconds,
                loss=loss,
            )
            for index, (process_id, step, activity, seconds, loss, rank) in rows
        ]
