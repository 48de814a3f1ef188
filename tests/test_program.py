"""A program that is forked from the preloaded process runs as in a new one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tasks.util.files import REPOSITORY
from tests.program import Finished, answer_of, command_of, forked, started_anew


def test_it_has_variables_arguments_and_a_session_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THIS_TEST", "1")
    found = answer_of("clean.facts")
    assert found == {
        "argv": ["clean.facts"],
        "torch": True,
        "leads its session": True,
        "end signal": signal.SIGKILL,
        "environment": dict(os.environ),
        "folder": str(REPOSITORY),
    }


def test_it_draws_what_no_other_draws() -> None:
    first, second = answer_of("clean.draw"), answer_of("clean.draw")
    assert not {*first} & {*second}


def test_it_sees_nothing_that_another_one_changed() -> None:
    answer_of("clean.spoil")
    assert answer_of("clean.finds_torch_whole") == [1.0]
    found = answer_of("clean.facts")
    assert "SPOILT" not in found["environment"]
    assert found["argv"] == ["clean.facts"]


@pytest.mark.parametrize("run", [forked, started_anew])
@pytest.mark.parametrize("code", [0, 3])
def test_outputs_are_apart_and_the_exit_code_is_its_own(run: Callable[..., Finished], code: int) -> None:
    finished = run("clean.say_and_exit", code)
    assert (finished.exit_code, finished.answer) == (code, None)
    assert sorted(finished.stdout.splitlines()) == ["out", "raw out"]
    assert finished.stderr == "err\n"


def test_an_error_is_exit_code_1_with_its_traceback_and_no_answer() -> None:
    finished = forked("clean.fail")
    assert (finished.exit_code, finished.answer) == (1, None)
    assert finished.stderr.endswith("ValueError: enough\n")


def test_a_signal_is_a_negative_exit_code() -> None:
    assert forked("clean.kill_itself").exit_code == -signal.SIGKILL


def test_it_is_ended_at_its_time_limit() -> None:
    begin = time.monotonic()
    assert forked("clean.sleep", 60, limit_s=1).exit_code == -signal.SIGALRM
    assert time.monotonic() - begin < 30


def test_what_it_leaves_behind_is_ended(tmp_path: Path) -> None:
    assert forked("clean.leave_a_child", str(tmp_path / "child")).exit_code == 0
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int((tmp_path / "child").read_text())).wait(10)


def test_it_ends_with_the_process_that_forked_it(tmp_path: Path) -> None:
    command = command_of("clean.serve", ["clean.sleep", 60, str(tmp_path)], Path(os.devnull))
    with subprocess.Popen(command, cwd=REPOSITORY) as server:
        while not (tmp_path / "stderr").exists():
            assert server.poll() is None
            time.sleep(0.01)
        (child,) = psutil.Process(server.pid).children()
        server.kill()
        assert psutil.wait_procs([child], timeout=10)[1] == []


def test_a_new_python_has_imported_nothing() -> None:
    found = started_anew("clean.facts", variables={"OF_THIS_TEST": "1"}).answer
    assert not found["torch"]
    assert found["environment"]["OF_THIS_TEST"] == "1"


def test_an_unknown_program_is_an_error() -> None:
    assert "no_such_function" in forked("clean.no_such_function").stderr
