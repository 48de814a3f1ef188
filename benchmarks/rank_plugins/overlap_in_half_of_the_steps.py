"""Evidence of overlap in half of the steps, drawn by lot, the same on all ranks; none of it in the others."""

from __future__ import annotations

import random

from benchmarks.rank_plugins.switched_overlap import SwitchedOverlap
from tasks.ranks import overlap


class OverlapInHalfOfTheSteps(SwitchedOverlap):
    """It changes over between two steps, in ``take``."""

    def __init__(self, chunks: overlap.Chunks) -> None:
        super().__init__(chunks)
        self._steps = 0

    def take(self) -> dict[str, float]:
        values = super().take()
        self._steps += 1
        self.switch(random.Random(self._steps).random() < 0.5)  # in the next step
        return values


overlap.Overlap = OverlapInHalfOfTheSteps
