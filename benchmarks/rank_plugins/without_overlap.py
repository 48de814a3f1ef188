"""No evidence of overlap: nothing of megatron-core's communication is wrapped, every scalar of it is 0."""

from __future__ import annotations

from tasks.ranks import overlap

NAMES = (overlap.GRAD_BUCKETS, overlap.PARAM_GATHERS, overlap.HIDDEN_TIME, overlap.EXPOSED_TIME)


class NoOverlap:
    """In the place of ``overlap.Overlap``."""

    def __init__(self, chunks: overlap.Chunks) -> None:
        pass

    def take(self) -> dict[str, float]:
        return dict.fromkeys(NAMES, 0.0)


overlap.Overlap = NoOverlap
