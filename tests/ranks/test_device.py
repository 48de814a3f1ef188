"""Events are made once and recorded again."""

from __future__ import annotations

import pytest
import torch

from tasks.ranks.device import EventPool


class Event:
    """Counts how often it is recorded, on which stream."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.recorded = 0

    def record(self, stream: str) -> None:
        self.recorded += 1
        self.stream = stream


def test_only_what_was_taken_back_is_recorded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "stream of the pool")
    pool = EventPool()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: pytest.fail("was asked for again"))
    first, second = pool.record(), pool.record()
    assert first is not second
    pool.take_back([second])
    assert pool.record() is second
    assert pool.record() not in (first, second)
    assert (first.recorded, second.recorded) == (1, 2)
    assert first.stream == second.stream == "stream of the pool"
