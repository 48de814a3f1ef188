"""A process that is not to outlive its parent asks for the right signal, and ends if it asked too late."""

from __future__ import annotations

import signal

import pytest

from tests.program import started_anew


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("parent", ["own", "gone", "unknown"])
def test_it_ends_with_its_parent_also_if_that_was_gone_before_it_asked(number: int, parent: str) -> None:
    ended = started_anew("processes.end_with", int(number), parent)
    expected = (-number, None) if parent == "gone" else (0, int(number))
    assert (ended.exit_code, ended.answer) == expected, ended.stderr
