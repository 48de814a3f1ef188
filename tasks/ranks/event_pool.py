"""CUDA events that are used again, on a stream that is known.

On an H100's host a new event took 3 us more than one recorded again, and to ask torch for the current stream
8 of the 12 us that were left.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


class EventPool:
    """Events with times, of which ``elapsed_time`` (ms) of two is asked once the device has passed both.

    They are recorded on the stream that is the current one where the pool is made.
    """

    def __init__(self) -> None:
        self._free: list[torch.cuda.Event] = []
        self._stream = torch.cuda.current_stream()

    def record(self) -> torch.cuda.Event:
        """An event, recorded now."""
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def take_back(self, events: Iterable[torch.cuda.Event]) -> None:
        """What is no longer asked for its time."""
        self._free.extend(events)
