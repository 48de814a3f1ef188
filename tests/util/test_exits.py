"""A task ends with its exit code, and with the session that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.util import exits
from tasks.util.files import REPOSITORY
from tests.program import child_ends_with_its_killed_parent


def test_a_crash_of_a_training_task_is_failed_training(capsys: pytest.CaptureFixture) -> None:
    assert exits.run_to_end(lambda: 1 // 0) == 3
    assert signal.getsignal(signal.SIGTERM) is not exits._stop
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_crash_of_another_task_is_bad_input(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        exits.exit_with(lambda: 1 // 0)
    assert ended.value.code == exits.USAGE
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PermissionError(13, "Permission denied", "runs/case.json"), 2, "runs/case.json: Permission denied"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (exits.UsageError("a reason"), 2, "a reason"),
        (exits.TrainingFailed("a reason"), 3, "a reason"),
        (exits.Hang("a reason"), 4, "a reason"),
        (exits.CannotRun("a reason"), 5, "a reason"),
    ],
)
def test_an_error_is_reported_in_one_line_with_its_exit_code(
    capsys: pytest.CaptureFixture, error: BaseException, code: int, line: str
) -> None:
    def failing() -> int:
        raise error

    tasks = [failing]
    if isinstance(error, exits.TaskError):
        tasks.append(lambda: exits.run_to_end(failing))
    for task in tasks:
        with pytest.raises(SystemExit) as ended:
            exits.exit_with(task)
        assert ended.value.code == code
        assert capsys.readouterr().err == f"error: {line}\n"


UNREAD = """
import os, sys
from tasks.util import exits

def task():
    sys.stdin.readline()
    print("unread", flush={flush})
    return 1

exits.exit_with({main})
"""


@pytest.mark.parametrize("main", ["task", "lambda: exits.run_to_end(task)"])
@pytest.mark.parametrize(("flush", "code"), [(True, exits.UNREAD), (False, exits.MISMATCH)])
def test_a_reader_that_has_gone_is_no_crash(main: str, flush: bool, code: int) -> None:
    """As after ``| head``: a task that had come to its end keeps its own code."""
    command = [sys.executable, "-c", UNREAD.format(main=main, flush=flush)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, cwd=REPOSITORY, env=variables, **pipes) as ended:
        ended.stdout.close()
        ended.stdin.write(b"\n")
        ended.stdin.close()
        assert (ended.stderr.read(), ended.wait()) == (b"", code)


def test_another_broken_pipe_is_a_crash(capsys: pytest.CaptureFixture) -> None:
    def task() -> int:
        raise BrokenPipeError

    assert exits.run_to_end(task) == exits.TRAINING_FAILED
    assert "BrokenPipeError" in capsys.readouterr().err


def test_an_output_that_is_closed_from_the_start_is_no_crash() -> None:
    command = [sys.executable, "-m", "tasks.check", "gpt3_pp4"]
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], cwd=REPOSITORY, check=False)
    assert closed.returncode == 0


def test_exit_codes_are_those_of_the_readme() -> None:
    errors = (exits.TaskError, exits.UsageError, exits.TrainingFailed, exits.Hang, exits.CannotRun)
    assert [error.exit_code for error in errors] == [2, 2, 3, 4, 5]
    assert list(exits.MEANINGS) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("own", [True, False])
def test_a_task_ends_with_the_session_that_started_it_and_with_no_other(
    monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(exits, "end_with_parent", asked.append)
    monkeypatch.setenv(exits.SESSION_VARIABLE, str(os.getppid() if own else os.getpid()))
    assert exits.run_to_end(lambda: 0) == 0
    assert asked == ([signal.SIGTERM] if own else [])


@pytest.mark.parametrize(
    ("number", "reported"), [(signal.SIGTERM, "stopped by SIGTERM"), (signal.SIGINT, "stopped by Ctrl-C")]
)
def test_a_stop_before_there_are_ranks_is_reported_in_one_line_too(
    capsys: pytest.CaptureFixture, number: int, reported: str
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run with "&"
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert exits.run_to_end(lambda: os.kill(os.getpid(), number) or time.sleep(20)) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == f"error: {reported}; the ranks have ended\n"
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_killed_session_ends_its_task() -> None:
    assert child_ends_with_its_killed_parent("processes.start_a_task")


SLOW = """
import os, subprocess, sys


class Slow(subprocess.Popen):
    def __init__(self, command, **options):
        if "tasks.train" in command:
            assert options["env"]["CRASH_TEST_SESSION"] == str(os.getpid())
            print("ready", flush=True)
            command = [sys.executable, "-c", "import time; time.sleep(60)"]
        super().__init__(command, **options)


subprocess.Popen = Slow
"""


@pytest.mark.parametrize("argv", [["record", "gpt3_pp4", "--reason", "x"], ["faults", "memory_leak"]])
def test_a_stopped_task_ends_the_training_that_it_started(tmp_path: Path, argv: list[str]) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    work_dir = ["--work-dir", str(tmp_path / "work")] if argv[0] == "faults" else []
    command = [sys.executable, "-m", f"tasks.{argv[0]}", *argv[1:], *work_dir]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "CRASH_TEST_DEVICE": "cpu", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environ, stdout=subprocess.PIPE, text=True) as task:
        assert "ready\n" in iter(task.stdout.readline, "")
        while not (children := psutil.Process(task.pid).children()):
            time.sleep(0.05)
        task.send_signal(signal.SIGTERM)
        assert task.wait(timeout=20) == exits.INTERRUPTED
        assert psutil.wait_procs(children, timeout=10)[1] == []
