"""Room on the data stack."""

from __future__ import annotations

import sys

import pytest

from tasks.launch import data_stack


def test_a_frame_above_the_function_asks_for_more_than_a_chunk() -> None:
    """A chunk has 16 KiB, 2048 words; the frame's own answer is the function's."""
    words = data_stack.with_room(lambda: sys._getframe(1).f_code.co_stacksize)
    assert words * 8 > 16 * 2**10


def test_an_error_passes() -> None:
    with pytest.raises(ZeroDivisionError):
        data_stack.with_room(lambda: 1 // 0)
