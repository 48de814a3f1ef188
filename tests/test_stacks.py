"""What the processes of a hang say of where they stand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks import stacks

# A rank that waits, a process that it forked and that waits elsewhere, and one that would die of SIGUSR1.
RANK = """
import faulthandler, os, signal, subprocess, sys, time
faulthandler.register(signal.SIGUSR1, file=open(sys.argv[1], "w"), all_threads=True)
def waits_for_its_writer():
    time.sleep(60)
def deadlocked_writer():
    time.sleep(60)
if os.fork() == 0:
    deadlocked_writer()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("ready", flush=True)
waits_for_its_writer()
"""


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[psutil.Process]:
    command = [sys.executable, "-c", RANK, str(tmp_path / "rank1.stack")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        yield family[0]
        for one in family:
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
