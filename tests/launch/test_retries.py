"""``--retries``: what is tried again, what is not, what is kept of it; and nothing outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tasks.judge.run import judge_run
from tasks.launch import retries
from tasks.launch.failures import KILLED_FOR_MEMORY, NO_SPACE, OUT_OF_MEMORY, PORT_TAKEN, TRANSPORT, Kind
from tasks.records.card_store import read_card
from tasks.reports.formats import as_junit, as_text
from tasks.util.exits import HANG, MISMATCH, PASSED, TRAINING_FAILED
from tasks.util.files import REPOSITORY
from tests import short_run
from tests.fake_run import write_golden, write_json, write_run
from tests.program import command_of


@pytest.fixture
def tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Makes each try end with the next of the given ends: exit code, and the failure that it names."""
    commands: list[list[str]] = []

    def ending(*ends: tuple[int, Kind | None]) -> list[list[str]]:
        left = list(ends)

        def run(command: list[str]) -> int:
            commands.append(command)
            code, kind = left.pop(0)
            for folder in ("phase1", "checkpoints"):
                (tmp_path / folder).mkdir()
                (tmp_path / folder / f"of try {len(commands)}").touch()
            (tmp_path / "case.json").write_text("{}")
            if code > 0:
                failure = {"kind": kind.name if kind else None, "message": "it broke"}
                (tmp_path / "phase1" / "failure.json").write_text(json.dumps(failure))
            return code

        monkeypatch.setattr(retries, "_run", run)
        return commands

    return ending


def supervise(run_dir: Path, times: int, phase: int = 1) -> int:
    return retries.supervise("train", ["case", "--retries", "2"], run_dir=run_dir, phase=phase, retries=times)


def test_a_broken_connection_is_tried_again_from_nothing(tmp_path: Path, tries: Callable) -> None:
    commands = tries((TRANSPORT.exit_code, TRANSPORT), (PASSED, None))
    assert supervise(tmp_path, 2) == PASSED
    assert len(commands) == 2
    assert commands[0][1:] == ["-m", "tasks.train", "case", "--retries", "2", "--retries", "0"]
    kept = tmp_path / "phase1.failed1"
    assert {path.name for path in kept.iterdir()} >= {"of try 1", "checkpoints", "case.json", "failure.json"}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["of try 2"]
    assert retries.read_retries(tmp_path) == [
        {"phase": 1, "attempt": 1, "kind": "transport", "message": "it broke", "kept": "phase1.failed1"}
    ]


def test_a_restart_is_tried_again_from_what_phase_1_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "case.json").touch()
    codes = [-signal.SIGKILL, PASSED]
    monkeypatch.setattr(retries, "_run", lambda _: codes.pop(0))
    assert supervise(tmp_path, 1, phase=2) == PASSED
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoints",
        "case.json",
        "phase2.failed1",
        "retries.json",
    }


def test_what_an_earlier_try_said_is_no_reason_of_this_one(tmp_path: Path, tries: Callable) -> None:
    """A finished run keeps it; a hang, or bad usage, ends otherwise."""
    note = tmp_path / "phase1" / "failure.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"kind": "transport", "message": "it broke"}))
    os.utime(note, (time.time() - 60,) * 2)
    assert retries._why(note.parent, TRANSPORT.exit_code, time.time(), 0) == (None, "")
    os.utime(note)
    assert retries._why(note.parent, TRANSPORT.exit_code, time.time() - 1, 0)[0] is TRANSPORT
    for code in (HANG, 2):
        assert retries._why(note.parent, code, time.time() - 1, 0)[0] is None


def test_what_failed_before_is_kept_when_a_phase_is_done_again(tmp_path: Path, tries: Callable) -> None:
    tries((TRANSPORT.exit_code, TRANSPORT), (PASSED, None))
    (tmp_path / "phase1.failed1").mkdir()
    (tmp_path / "phase1.failed1" / "of before").touch()
    (tmp_path / "frozen").mkdir()
    assert supervise(tmp_path, 1) == PASSED
    assert [path.name for path in (tmp_path / "phase1.failed1").iterdir()] == ["of before"]
    assert (tmp_path / "phase1.failed2" / "of try 1").exists()
    assert (tmp_path / "phase1.failed2" / "frozen").exists(), "what the kept checkpoint brought along"


def test_a_killed_agent_is_tried_again_and_ends_as_failed_training(tmp_path: Path, tries: Callable) -> None:
    commands = tries((-signal.SIGKILL, None), (-signal.SIGKILL, None))
    assert supervise(tmp_path, 1) == TRAINING_FAILED
    assert len(commands) == 2
    assert [failed["kind"] for failed in retries.read_retries(tmp_path)] == ["killed agent"] * 2


def test_an_agent_that_the_kernel_killed_for_memory_is_not_tried_again(
    tmp_path: Path, tries: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = iter((4, 5))
    monkeypatch.setattr("tasks.machine.host_memory.kills", lambda: next(counted))
    commands = tries((-signal.SIGKILL, None))
    assert supervise(tmp_path, 1) == KILLED_FOR_MEMORY.exit_code
    assert len(commands) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (TRAINING_FAILED, None),
        (TRAINING_FAILED, OUT_OF_MEMORY),
        (NO_SPACE.exit_code, NO_SPACE),
        (HANG, None),
        (MISMATCH, None),
        (130, None),
        (-signal.SIGSEGV, None),
    ],
)
def test_what_may_be_the_trainings_own_is_never_tried_again(
    tmp_path: Path, tries: Callable, code: int, kind: Kind | None
) -> None:
    commands = tries((code, kind))
    assert supervise(tmp_path, 5) == (code if code > 0 else TRAINING_FAILED)
    assert len(commands) == 1
    assert (tmp_path / "phase1" / "of try 1").exists(), "moved away, though nothing takes its place"


def test_there_are_no_more_tries_than_asked_for(tmp_path: Path, tries: Callable) -> None:
    commands = tries(*[(PORT_TAKEN.exit_code, PORT_TAKEN)] * 3)
    assert supervise(tmp_path, 2) == PORT_TAKEN.exit_code
    assert len(commands) == 3
    assert [failed["kept"] for failed in retries.read_retries(tmp_path)] == [
        "phase1.failed1",
        "phase1.failed2",
        "",
    ]


def test_every_failed_try_is_in_the_report_and_judges_nothing(tmp_path: Path) -> None:
    write_golden(tmp_path)
    run = write_run(tmp_path / "run")
    failed = {"phase": 1, "attempt": 1, "kind": "transport", "message": "it broke", "kept": "phase1.failed1"}
    write_json(run / "retries.json", {"failed": [failed]})
    verdict = judge_run(run, root=tmp_path)
    assert verdict.exit_code == PASSED
    for text in (as_text(verdict), as_junit(verdict)):
        assert "phase 1, try 1" in text
        assert "transport: it broke; kept in phase1.failed1" in text


# ---- real children ----


@pytest.fixture
def parent() -> subprocess.Popen:
    command = command_of("processes.run_with_retries", [], Path(os.devnull))
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 7), (signal.SIGINT, 8)])
def test_a_stop_reaches_the_child_which_decides_the_code(
    parent: subprocess.Popen, number: int, code: int
) -> None:
    os.kill(parent.pid, number)
    assert parent.wait(10) == code


def test_a_ctrl_c_of_the_terminal_reaches_the_child_once(parent: subprocess.Popen) -> None:
    (child,) = psutil.Process(parent.pid).children()
    assert os.getsid(child.pid) == child.pid, "the terminal's would come beside the one handed on"


def test_a_stop_that_comes_before_there_is_a_child_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    def started(*_: object, **__: object) -> SimpleNamespace:
        os.kill(os.getpid(), signal.SIGTERM)
        return SimpleNamespace(send_signal=sent.append, wait=lambda: 130)

    monkeypatch.setattr(subprocess, "Popen", started)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert retries._run(["a task"]) == 130
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sent == [signal.SIGTERM]


def test_a_killed_parent_takes_the_child_along(parent: subprocess.Popen) -> None:
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.training
def test_a_killed_agent_is_tried_again_in_a_real_run(trained: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = short_run.command("train", run_dir, "--retries", "1")
    environment = {**os.environ, "CRASH_TEST_DEVICE": "cpu"}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment) as supervisor:
        while not (run_dir / "phase1" / "rank0.log").exists():
            assert supervisor.poll() is None
            time.sleep(0.02)
        (agent,) = psutil.Process(supervisor.pid).children()
        agent.kill()
        assert supervisor.wait(120) == PASSED
    (failed,) = retries.read_retries(run_dir)
    assert (failed["kind"], failed["kept"]) == ("killed agent", "phase1.failed1")
    assert json.loads((run_dir / "phase1.json").read_text())["restarts"] == 0
    clean, tried = (read_card(path / "actual_phase1.json").metrics["lm loss"] for path in (trained, run_dir))
    assert tried.values.tolist() == clean.values.tolist()
