"""Stacks of the processes of a hang."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.launch import collectives, stacks
from tasks.util.files import REPOSITORY
from tasks.util.processes import descendants
from tests.program import command_of


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[psutil.Process]:
    command = command_of("processes.wait_beside_others", [str(tmp_path / "rank1.stack")], tmp_path / "answer")
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert [process.stdout.readline() for _ in range(3)] == ["ready\n"] * 3
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        yield processes[0]
        for one in processes:
            one.kill()


def test_a_rank_and_what_it_forked_say_where_they_stand_and_no_other_dies(
    tmp_path: Path, rank: psutil.Process
) -> None:
    said = stacks.collect(tmp_path, {1: rank.pid})
    own, writer, stranger = said[1]
    assert "in waits_for_its_writer" in own
    assert "in deadlocked_writer" in writer
    assert stranger.endswith("gave no stack")
    assert [child.status() != psutil.STATUS_ZOMBIE for child in rank.children()] == [True, True]


def test_a_stopped_process_is_named_as_one(tmp_path: Path, rank: psutil.Process) -> None:
    for process in (rank, rank.children()[0]):
        os.kill(process.pid, signal.SIGSTOP)
        while not stacks.is_stopped(process.pid):
            time.sleep(0.01)
    own, writer, _ = stacks.collect(tmp_path, {1: rank.pid})[1]
    assert own == "stopped by a signal (SIGSTOP)"
    assert writer.endswith("stopped by a signal (SIGSTOP)")


def test_py_spy_is_asked_for_native_frames_of_all_where_it_is_installed(
    tmp_path: Path, rank: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not stacks.collect_native(tmp_path, {1: rank.pid})
    (tmp_path / "py-spy").write_text('#!/bin/sh\necho "asked for: $*"\n')
    (tmp_path / "py-spy").chmod(0o755)
    assert stacks.collect_native(tmp_path, {1: rank.pid})
    text = (tmp_path / "rank1.native-stack").read_text()
    asked = sorted(f"asked for: dump --native --pid {one.pid}" for one in (rank, *rank.children()))
    assert sorted(text.splitlines()) == asked


def test_what_a_rank_started_is_asked_however_little_the_others_started(
    tmp_path: Path, rank: psutil.Process
) -> None:
    with subprocess.Popen(["sleep", "60"]) as alone:
        said = stacks.collect(tmp_path, {0: alone.pid, 1: rank.pid})
        alone.kill()
    assert said[0] == ["gave no stack"]
    assert [len(said[1]), "in deadlocked_writer" in said[1][1]] == [3, True]


def test_what_a_process_of_a_rank_started_belongs_to_it_too() -> None:
    with subprocess.Popen(["sh", "-c", "(sleep 60; true) & wait"], start_new_session=True) as shell:
        deadline = time.monotonic() + 10
        while len(descendants(shell.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        found = [child.pid for child in descendants(shell.pid)]
        os.killpg(shell.pid, signal.SIGKILL)
    assert len(found) == 2
    assert descendants(shell.pid) == []


def test_a_rank_that_does_not_answer_is_not_waited_for_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "_ANSWERS_S", 0.3)
    waiting = threading.Thread(target=stacks._wait_for_answers, args=(tmp_path, {1: ""}), daemon=True)
    waiting.start()
    waiting.join(10)
    assert not waiting.is_alive()


def test_of_several_threads_the_main_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "rank1.stack").write_text(
        'of before\nThread 0x1 (most recent call first):\n  File "other.py", line 1 in waits\n\n'
        'Current thread 0x2 (most recent call first):\n  File "own.py", line 2 in sends\n'
    )
    assert stacks._said(tmp_path, 1, "of before\n", stopped=False) == 'in "own.py", line 2 in sends'


def test_a_py_spy_that_does_not_end_is_ended(
    tmp_path: Path, rank: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "py-spy").write_text("#!/bin/sh\nsleep 2\necho late\n")
    (tmp_path / "py-spy").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(stacks, "_PY_SPY_S", 0.2)
    before = psutil.Process().children()
    assert stacks.collect_native(tmp_path, {1: rank.pid})
    assert psutil.Process().children() == before
    assert "late" not in (tmp_path / "rank1.native-stack").read_text()


def test_a_record_of_an_earlier_hang_is_none_of_this_one(tmp_path: Path, rank: psutil.Process) -> None:
    old = collectives.record_file(tmp_path, 1)
    old.write_text("of a phase that was gone on with")
    stacks.collect(tmp_path, {1: rank.pid})
    assert not old.exists()
