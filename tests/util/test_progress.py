"""The board on which ranks show how far they are."""

from __future__ import annotations

import math
import os

import pytest

from tasks.util.progress import ProgressBoard


def test_what_a_forked_rank_notes_is_seen_by_its_parent() -> None:
    board = ProgressBoard(4)
    if (child := os.fork()) == 0:
        board.note(2, process_id=os.getpid(), step=7, activity="optimizer step", loss=3.25)
        os._exit(0)
    os.waitpid(child, 0)
    row = board.rows()[2]
    assert (row.process_id, row.step, row.activity, row.loss) == (child, 7, "optimizer step", 3.25)
    assert row.seconds > 0
    assert [board.rows()[rank].process_id for rank in (0, 1, 3)] == [0, 0, 0]


def test_a_note_without_a_loss_has_none_and_an_unknown_activity_is_refused() -> None:
    board = ProgressBoard(1)
    board.note(0, process_id=1, step=1, activity="logging")
    assert math.isnan(board.rows()[0].loss)
    with pytest.raises(ValueError, match="not in tuple"):
        board.note(0, process_id=1, step=1, activity="tea break")


def test_a_node_shows_its_own_ranks_only_by_their_numbers_in_the_job() -> None:
    board = ProgressBoard(4)
    for rank in (4, 5, 6, 7):
        board.note(rank, process_id=100 + rank, step=rank, activity="logging")
    assert [(row.rank, row.process_id) for row in board.rows()] == [(4, 104), (5, 105), (6, 106), (7, 107)]
