"""The pool of a device's events."""

from __future__ import annotations

from typing import Any

import torch

from tasks.ranks.device import EventPool


class _Event:
    """Counts how often it is recorded, on which stream."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.recorded = 0

    def record(self, stream: str) -> None:
        self.recorded += 1
        self.stream = stream


def recorded() -> dict[str, Any]:
    """Four events recorded, of which the second was taken back before: which are one, and their streams."""
    torch.cuda.Event = _Event
    torch.cuda.current_stream = lambda: "stream of the pool"
    pool = EventPool()
    torch.cuda.current_stream = lambda: 1 / 0  # it is not asked for again
    first, second = pool.record(), pool.record()
    pool.take_back([second])
    third, fourth = pool.record(), pool.record()
    return {
        "first is second": first is second,
        "third is second": third is second,
        "fourth is new": fourth not in (first, second),
        "recorded": [first.recorded, second.recorded],
        "streams": [first.stream, second.stream],
    }
