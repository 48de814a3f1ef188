"""Events are made once and recorded again."""

from __future__ import annotations

from tests.program import answer_of


def test_only_what_was_taken_back_is_recorded_again() -> None:
    assert answer_of("events.recorded") == {
        "first is second": False,
        "third is second": True,
        "fourth is new": True,
        "recorded": [1, 2],
        "streams": ["stream of the pool"] * 2,
    }
