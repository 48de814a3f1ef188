"""The killer kills the ranks of the case, after their step, once an attempt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.cases.case import Kill
from tasks.judge.crash_evidence import crash_rows
from tasks.launch import killer as killer_module
from tasks.launch.killer import Killer, has_logged
from tasks.records import attempts
from tasks.records.card_store import read_card
from tasks.util.files import read_json_object
from tasks.util.progress import ACTIVITIES, ProgressBoard
from tests import short_run


@pytest.fixture
def ranks() -> Iterator[list[subprocess.Popen]]:
    """Six processes that stand for ranks: two attempts of three."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    processes = [subprocess.Popen(command) for _ in range(6)]
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def noted(board: ProgressBoard, processes: list[subprocess.Popen], step: int, activity: str) -> None:
    for rank, process in enumerate(processes):
        board.note(rank, process_id=process.pid, step=step, activity=activity)


def wait_for(killer: Killer, kills: int) -> None:
    deadline = time.monotonic() + 10
    while len(killer.done) < kills and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(killer.done) == kills


def test_ranks_are_killed_when_every_rank_has_logged_the_step(ranks: list[subprocess.Popen]) -> None:
    board = ProgressBoard(3)
    noted(board, ranks[:3], 5, "logging")  # completed, not yet written down
    with Killer(board, [Kill(after_step=5, ranks=(0, 2))], lambda: 4) as killer:
        time.sleep(0.1)
        assert not killer.done
        noted(board, ranks[:2], 5, "forward and backward")
        time.sleep(0.1)
        assert not killer.done, "rank 2 has not logged it"
        noted(board, ranks[:3], 6, "logging")
        wait_for(killer, 1)
    (done,) = killer.done
    assert done.processes == {0: ranks[0].pid, 2: ranks[2].pid}
    assert done.ended
    assert (done.after_step, done.newest_checkpoint) == (5, 4)
    assert [process.wait(5) for process in (ranks[0], ranks[2])] == [-signal.SIGKILL] * 2
    assert [process.poll() for process in (ranks[1], *ranks[3:])] == [None] * 4


def test_the_next_kill_waits_for_the_next_attempt(ranks: list[subprocess.Popen]) -> None:
    board = ProgressBoard(3)
    noted(board, ranks[:3], 7, "optimizer step")
    with Killer(board, [Kill(after_step=5, ranks=(1,)), Kill(after_step=5, ranks=(1,))], lambda: 4) as killer:
        wait_for(killer, 1)
        time.sleep(0.1)
        assert len(killer.done) == 1, "the board still has the rows of the attempt that was killed"
        noted(board, ranks[3:], 4, "optimizer step")
        time.sleep(0.1)
        assert len(killer.done) == 1, "the new attempt is not there yet"
        noted(board, ranks[3:], 6, "logging")
        wait_for(killer, 2)
    assert killer.done[1].processes == {1: ranks[4].pid}


def test_a_process_that_ended_by_itself_was_not_killed(ranks: list[subprocess.Popen]) -> None:
    board = ProgressBoard(3)
    ranks[1].kill()
    ranks[1].wait()
    noted(board, ranks[:3], 9, "logging")
    with Killer(board, [Kill(after_step=5, ranks=(1,))], lambda: None) as killer:
        wait_for(killer, 1)
    assert not killer.done[0].ended


def test_a_process_that_does_not_end_in_time_is_reported_so(
    ranks: list[subprocess.Popen], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = ProgressBoard(3)
    noted(board, ranks[:3], 9, "logging")
    monkeypatch.setattr(killer_module, "_ends", lambda handle: False)
    with Killer(board, [Kill(after_step=5, ranks=(1,))], lambda: None) as killer:
        wait_for(killer, 1)
    assert not killer.done[0].ended


def test_a_phase_that_ends_waits_for_the_kill_that_has_begun_and_for_no_other(
    ranks: list[subprocess.Popen],
) -> None:
    board, begun = ProgressBoard(3), threading.Event()
    noted(board, ranks[:3], 9, "logging")
    kills = [Kill(after_step=5, ranks=(1,)), Kill(after_step=5, ranks=(2,))]
    killer = Killer(board, kills, lambda: begun.set() or time.sleep(0.3))

    def phase() -> None:
        with killer:
            begun.wait(10)

    running = threading.Thread(target=phase, daemon=True)
    running.start()
    running.join(20)
    assert not running.is_alive()
    assert [done.processes for done in killer.done] == [{1: ranks[1].pid}]


def test_without_kills_there_is_no_thread() -> None:
    before = threading.active_count()
    with Killer(ProgressBoard(3), (), lambda: None) as killer:
        assert threading.active_count() == before
    assert killer.done == []


def test_a_step_is_logged_when_the_next_activity_begins() -> None:
    board = ProgressBoard(1)
    after = {}
    for activity in ACTIVITIES:
        board.note(0, process_id=1, step=5, activity=activity)
        after[activity] = has_logged(board.rows()[0], 5)
    begun = ("saving checkpoint", "forward and backward", "optimizer step", "finished")
    assert [activity for activity, logged in after.items() if logged] == list(begun)
    assert has_logged(board.rows()[0], 4)
    assert not has_logged(board.rows()[0], 6)


# ---- real trainings ----


def crash_case(folder: Path, *kills: dict) -> Path:
    """The crash case with other kills."""
    path = folder / "crash" / "model_config.yaml"
    path.parent.mkdir()
    path.write_text(f"INHERIT: gpt3_pp4_crash_resume\nCRASH: {json.dumps(kills)}\n")
    return path


def assert_values_of(trained: Path, run_dir: Path) -> None:
    clean, killed = (read_card(path / "actual_phase1.json").metrics for path in (trained, run_dir))
    for name in ("lm loss", "grad-norm", "num-zeros", "params-norm", "learning-rate"):
        assert killed[name].values.tolist() == clean[name].values.tolist(), name


@pytest.mark.training
def test_two_ranks_killed_at_once_change_nothing(trained: Path, tmp_path: Path) -> None:
    kill = {"after_step": 3, "ranks": [2, 7]}  # rank 7 writes the scalars
    run_dir = tmp_path / "run"
    finished = short_run.run("train", run_dir, case=crash_case(tmp_path, kill))
    assert finished.returncode == 0, finished.stdout
    assert "after step 3, as the case asks for" in finished.stdout
    assert_values_of(trained, run_dir)
    rows = crash_rows(read_json_object(run_dir / "phase1.json"), [kill])
    assert [row for row in rows if not row.passed] == []
    first, second = (read_card(run_dir / f"actual_phase1_attempt{number}.json") for number in (0, 1))
    assert first.metrics["lm loss"].steps[0] == 1
    assert second.metrics["lm loss"].steps.tolist() == [3, 4]


@pytest.mark.training
def test_a_rank_killed_in_every_attempt_is_given_up(tmp_path: Path) -> None:
    run_dir, kill = tmp_path / "run", {"after_step": 3, "ranks": [5]}
    case = crash_case(tmp_path, kill, kill)
    finished = short_run.run("train", run_dir, "--max-restarts", "1", "--retries", "1", case=case)
    assert finished.returncode == 3, finished.stdout
    assert "rank 5 was killed by SIGKILL; given up after 1 restarts (--max-restarts 1)" in finished.stdout
    assert len(attempts.processes(run_dir / "phase1")) == 2
    assert not (run_dir / "retries.json").exists(), "what the case asks for was taken for a failure"


@pytest.mark.training
def test_a_half_written_checkpoint_is_never_used(trained: Path, tmp_path: Path) -> None:
    """A rank is killed once the checkpoint of step 2 is complete and files of step 4 are being written."""
    run_dir = tmp_path / "run"
    tracker = run_dir / "checkpoints" / "latest_checkpointed_iteration.txt"
    command = short_run.command("train", run_dir, "--max-restarts", "1", "--set", "exit-interval=6")
    environment = {**os.environ, "CRASH_TEST_DEVICE": "cpu"}
    with subprocess.Popen(command, cwd=short_run.REPOSITORY, env=environment) as process:
        while not (tracker.exists() and any((run_dir / "checkpoints" / "iter_0000004").glob("*.distcp"))):
            assert process.poll() is None
            time.sleep(0.002)
        os.kill(attempts.processes(run_dir / "phase1")[0][3], signal.SIGKILL)
        newest = tracker.read_text()
        assert process.wait(120) == 0
    record = read_json_object(run_dir / "phase1.json")
    assert (newest, record["loaded_iteration"], record["restarts"]) == ("2", 2, 1)
    clean, killed = (read_card(path / "actual_phase1.json").between(1, 4) for path in (trained, run_dir))
    assert killed.metrics["lm loss"].values.tolist() == clean.metrics["lm loss"].values.tolist()
