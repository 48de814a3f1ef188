"""A hang, as far as it counts as one, and its report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.launch import watchdog
from tasks.launch.watchdog import FIRST_STEP_TIMEOUT_S, Pace, Watchdog
from tasks.util.files import REPOSITORY
from tasks.util.progress import ProgressBoard
from tests.program import command_of


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[subprocess.Popen]:
    command = command_of("processes.wait_for_a_message", [str(tmp_path / "rank1.stack")], tmp_path / "answer")
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def noted(board: ProgressBoard, process_id: int) -> None:
    board.note(0, process_id=os.getpid(), step=4, activity="optimizer step")
    board.note(1, process_id=process_id, step=3, activity="forward and backward")


def silent(board: ProgressBoard, directory: Path) -> str:
    """Watch a board on which nothing happens; the own process must survive, so its row is wiped first."""
    board.note(0, process_id=0, step=4, activity="optimizer step")
    with Watchdog(board, directory, (1, 10), hang_timeout_s=0.5) as dog:
        deadline = time.monotonic() + 10
        while dog.hang_report is None and time.monotonic() < deadline:
            time.sleep(0.05)
    assert dog.hang_report is not None
    return dog.hang_report


def test_silence_of_all_ranks_is_a_hang_and_ends_them(tmp_path: Path, rank: subprocess.Popen) -> None:
    board = ProgressBoard(2)
    noted(board, rank.pid)
    report = silent(board, tmp_path)
    assert "rank 1 is behind (step 4, forward and backward)" in report
    assert "in wait_for_a_message" in report
    assert rank.wait(timeout=5) == -signal.SIGKILL


def test_a_rank_that_has_not_begun_the_next_step_is_behind_one_that_waits_in_it(tmp_path: Path) -> None:
    board = ProgressBoard(3)
    board.note(1, process_id=0, step=4, activity="forward and backward")  # waits longest, but is further
    board.note(2, process_id=0, step=4, activity="logging")
    assert "rank 2 is behind (step 4, logging)" in silent(board, tmp_path)


def test_a_stopped_rank_is_reported_from_one_that_waits(tmp_path: Path, rank: subprocess.Popen) -> None:
    os.kill(rank.pid, signal.SIGSTOP)
    board = ProgressBoard(2)
    noted(board, rank.pid)
    assert "stopped by a signal (SIGSTOP)" in silent(board, tmp_path)


def test_ranks_that_have_ended_do_not_hang(
    tmp_path: Path, rank: subprocess.Popen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Their agent waits for a lost node; how long, it says itself."""
    monkeypatch.setattr(watchdog, "_SAY_GONE_AFTER_S", 0.1)
    board = ProgressBoard(1)
    board.note(0, process_id=rank.pid, step=3, activity="logging")
    rank.kill()
    rank.wait()
    with Watchdog(board, tmp_path, (1, 10), hang_timeout_s=0.3) as dog:
        time.sleep(1.5)
    assert dog.hang_report is None
    assert capsys.readouterr().out.count("the ranks of this node have ended; waiting") == 1


def test_ranks_of_which_one_is_left_can_hang(rank: subprocess.Popen) -> None:
    board = ProgressBoard(3)
    assert not watchdog._are_gone(board.rows()), "none has begun"
    noted(board, rank.pid)
    rank.kill()
    rank.wait()
    assert not watchdog._are_gone(board.rows())
    board.note(0, process_id=rank.pid, step=4, activity="logging")
    assert watchdog._are_gone(board.rows())


def test_ranks_of_another_node_are_named_by_their_numbers(tmp_path: Path, rank: subprocess.Popen) -> None:
    board = ProgressBoard(2)
    (tmp_path / "rank1.stack").rename(tmp_path / "rank5.stack")  # the file that the process writes to
    board.note(4, process_id=rank.pid, step=4, activity="logging")
    board.note(5, process_id=rank.pid, step=3, activity="logging")
    with Watchdog(board, tmp_path, (1, 10), hang_timeout_s=0.5) as dog:
        deadline = time.monotonic() + 10
        while dog.hang_report is None and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "rank 5 is behind" in dog.hang_report
    assert "rank 5: step 3, logging" in dog.hang_report
    assert "in wait_for_a_message" in dog.hang_report


def test_one_rank_that_goes_on_is_no_hang(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    board = ProgressBoard(2)
    with Watchdog(board, tmp_path, (1, 10), hang_timeout_s=0.5) as dog:
        for step in range(1, 11):
            board.note(1, process_id=0, step=step, activity="logging", loss=2.5)
            time.sleep(0.2)
    assert dog.hang_report is None
    printed = capsys.readouterr().out
    assert "step 1/10" in printed
    assert "step 10/10  lm loss 2.5000" in printed


def test_the_first_steps_have_a_minute_and_later_ones_ten_times_the_slowest(tmp_path: Path) -> None:
    dog = Watchdog(ProgressBoard(1), tmp_path, (1, 10), hang_timeout_s=None)
    assert dog._timeout_s() == FIRST_STEP_TIMEOUT_S == 60
    dog._pace.slowest_step_s = 9.0
    assert dog._timeout_s() == 90


def test_the_slowest_step_is_that_of_all_but_the_first() -> None:
    pace, slowest = Pace(0.0), []
    for step, now in ((0, 20), (1, 50), (1, 51), (2, 55), (3, 57), (4, 58), (2, 90), (3, 91), (4, 97)):
        pace.note(step, now)
        slowest.append(pace.slowest_step_s)
    assert slowest == [0, 0, 0, 5, 5, 5, 5, 5, 6], "a start, imports and a restart are no steps"


def test_when_the_first_rank_began_is_kept(tmp_path: Path) -> None:
    board = ProgressBoard(1)
    with Watchdog(board, tmp_path, (1, 10), hang_timeout_s=60) as dog:
        time.sleep(0.3)
        assert dog.first_note_s is None
        board.note(0, process_id=os.getpid(), step=0, activity="starting")
        while (began := dog.first_note_s) is None:
            time.sleep(0.02)
        board.note(0, process_id=os.getpid(), step=1, activity="logging")
        time.sleep(0.3)
    assert dog.first_note_s == began


def test_steps_that_are_trained_again_are_shown_again(capsys: pytest.CaptureFixture) -> None:
    board, display = ProgressBoard(1), watchdog._Display((1, 10))
    for step in (1, 5, 2, 3):
        board.note(0, process_id=1, step=step, activity="logging")
        display.update(board.rows())
    first, again, second = capsys.readouterr().out.splitlines()
    assert (first, second.partition("  ")[0]) == ("step 1/10", "step 3/10")
    assert again == "all ranks were started again; the last step before was 5"


def test_a_hang_ends_the_ranks_that_are_started_again_too(tmp_path: Path, rank: subprocess.Popen) -> None:
    """The agent may start them again: the phase has hung all the same."""
    board = ProgressBoard(2)
    noted(board, rank.pid)
    board.note(0, process_id=0, step=4, activity="optimizer step")
    with Watchdog(board, tmp_path, (1, 10), hang_timeout_s=0.5) as dog:
        assert rank.wait(timeout=10) == -signal.SIGKILL
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as again:
            board.note(1, process_id=again.pid, step=0, activity="starting")
            assert again.wait(timeout=10) == -signal.SIGKILL
    assert "rank 1 is behind (step 4, forward and backward)" in dog.hang_report


def test_a_process_is_killed_once_for_its_number_may_be_anothers_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(watchdog.os, "kill", lambda process_id, _: killed.append(process_id))
    board = ProgressBoard(2)
    dog = Watchdog(board, tmp_path, (1, 10), hang_timeout_s=0.5)
    noted(board, 4321)
    dog._kill(board.rows())
    board.note(0, process_id=5432, step=0, activity="starting")
    dog._kill(board.rows())
    assert sorted(killed) == sorted([os.getpid(), 4321, 5432])


@pytest.mark.parametrize(("several_nodes", "hangs"), [(True, False), (False, True)])
def test_before_there_is_a_rank_other_nodes_may_take_their_time(
    tmp_path: Path, several_nodes: bool, hangs: bool
) -> None:
    board = ProgressBoard(1)
    with Watchdog(board, tmp_path, (1, 10), hang_timeout_s=0.3, several_nodes=several_nodes) as dog:
        time.sleep(1.5)
    assert (dog.hang_report is not None) is hangs


def test_it_goes_on_watching_when_nobody_reads_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed:
        def write(self, text: str) -> None:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    board = ProgressBoard(1)
    monkeypatch.setattr(sys, "stdout", Closed())
    with Watchdog(board, tmp_path, (1, 10), hang_timeout_s=0.5) as dog:
        board.note(0, process_id=0, step=1, activity="logging", loss=2.5)
        time.sleep(1.5)
    assert dog.hang_report is not None
