"""Nothing is left behind: not by a rank that fails, a Ctrl-C, a hang, or a launcher that is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tasks.util.files import REPOSITORY
from tests import short_run

SLEEP = """
import os, time
from tasks.ranks import pretrain
step = pretrain.Trainer.step
def sleeping(self):
    if self.iteration == {after} and self.args.rank == 5:
        time.sleep(3600)
    step(self)
pretrain.Trainer.step = sleeping
"""
ALONE_IN_A_COLLECTIVE = """
import torch
from tasks.ranks import pretrain
step = pretrain.Trainer.step
def alone(self):
    if self.iteration == 1 and self.args.rank == 5:
        torch.distributed.all_reduce(torch.zeros(1))
    step(self)
pretrain.Trainer.step = alone
"""
DEADLOCKED_WRITER = """
import os, threading
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
def deadlock(*args, **kwargs):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
if os.environ["RANK"] == "3":
    FileSystemWriterAsync.write_preloaded_data = staticmethod(deadlock)
"""

# A rank that fails although what it started would never end, and Python waits for it.
FAILING = """
import multiprocessing, os, time
if os.environ["RANK"] == "6":
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,)).start()
    raise ValueError("rank 6 has had enough")
"""
LEAVING = """
import os, sys
from tasks.ranks import pretrain
step = pretrain.Trainer.step
def leaving(self):
    step(self)
    if self.iteration == 2 and {who}:
        {leave}
pretrain.Trainer.step = leaving
"""


def assert_nothing_runs(run_dir: Path, within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while (left := short_run.processes_of(run_dir)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def started(run_dir: Path, *options: object, step: str = "step 1/") -> subprocess.Popen:
    """A short run that has made its first step."""
    process = subprocess.Popen(
        short_run.command("train", run_dir, *options),
        cwd=REPOSITORY,
        env={**os.environ, "CRASH_TEST_DEVICE": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = iter(process.stdout.readline, "")
    assert any(step in line for line in lines)
    return process


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    plugin = tmp_path / "sleeper.py"
    plugin.write_text(SLEEP.format(after=1))
    return plugin


@pytest.mark.training
def test_a_failing_rank_is_named_with_its_error_and_log(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(FAILING)
    finished = short_run.run("train", tmp_path / "run", "--rank-plugin", plugin)
    assert finished.returncode == 3
    assert "rank 6 failed: ValueError: rank 6 has had enough" in finished.stdout
    assert "phase1/rank6.log" in finished.stdout
    assert_nothing_runs(tmp_path / "run")


@pytest.mark.training
@pytest.mark.parametrize(
    ("who", "leave", "said"),
    [
        ("self.args.rank == 5", "os._exit(0)", "rank 5 ended with exit code 0 before it had finished"),
        ("True", "os._exit(0)", "ended with exit code 0 before it had finished"),
        ("True", "sys.exit(0)", "RuntimeError: it ended itself before it had finished: sys.exit(0)"),
        ("True", "self.args.train_iters = 2", "the ranks ended after step 2 of 4, without an error"),
    ],
)
def test_ranks_that_leave_early_without_an_error_are_no_success(
    tmp_path: Path, who: str, leave: str, said: str
) -> None:
    plugin = tmp_path / "leave.py"
    plugin.write_text(LEAVING.format(who=who, leave=leave))
    ran = short_run.run("train", tmp_path / "run", "--rank-plugin", plugin, timeout=50)
    assert ran.returncode == 3, ran.stdout
    assert said in ran.stdout
    assert not (tmp_path / "run/actual_phase1.json").exists()
    assert_nothing_runs(tmp_path / "run")


@pytest.mark.training
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_every_process_within_ten_seconds(tmp_path: Path, sleeper: Path, number: int) -> None:
    process = started(tmp_path / "run", "--rank-plugin", sleeper)
    assert len(short_run.processes_of(tmp_path / "run")) >= 9
    process.send_signal(number)
    rest, _ = process.communicate(timeout=10)
    assert process.returncode == 130, rest
    assert "the ranks have ended" in rest
    assert_nothing_runs(tmp_path / "run", within_s=1)


@pytest.mark.training
def test_a_killed_launcher_takes_its_ranks_and_their_checkpoint_writers_along(
    tmp_path: Path, sleeper: Path
) -> None:
    sleeper.write_text(SLEEP.format(after=2))  # after the first save
    process = started(tmp_path / "run", "--rank-plugin", sleeper)
    deadline = time.monotonic() + 20
    while len(short_run.processes_of(tmp_path / "run")) < 1 + 8 + 8 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(short_run.processes_of(tmp_path / "run")) >= 1 + 8 + 8
    process.kill()
    process.communicate()
    assert_nothing_runs(tmp_path / "run")


@pytest.mark.training
def test_a_hang_ends_as_a_report_that_names_the_rank_behind(tmp_path: Path, sleeper: Path) -> None:
    finished = short_run.run("train", tmp_path / "run", "--rank-plugin", sleeper, "--hang-timeout", "8")
    assert finished.returncode == 4
    report = r"no rank made progress for (\d+) s; rank 5 is behind \(step 1, logging\)"
    silence = re.search(report, finished.stdout)
    assert 8 <= int(silence[1]) < 60, "without --hang-timeout it is a minute at least"
    assert "sleeper.py" in finished.stdout
    assert_nothing_runs(tmp_path / "run")


@pytest.mark.training
def test_a_hang_before_the_first_step_ends_too(tmp_path: Path) -> None:
    plugin = tmp_path / "late.py"
    plugin.write_text("import os, time\nif os.environ['RANK'] == '3': time.sleep(3600)\n")
    finished = short_run.run("train", tmp_path / "run", "--rank-plugin", plugin, "--hang-timeout", "6")
    assert finished.returncode == 4, finished.stdout
    assert "rank 3: step 1, starting" in finished.stdout
    assert "late.py" in finished.stdout
    assert_nothing_runs(tmp_path / "run")


@pytest.mark.training
def test_a_rank_in_a_collective_that_no_other_enters_is_named(tmp_path: Path) -> None:
    plugin = tmp_path / "alone.py"
    plugin.write_text(ALONE_IN_A_COLLECTIVE)
    finished = short_run.run("train", tmp_path / "run", "--rank-plugin", plugin, "--hang-timeout", "8")
    assert finished.returncode == 4, finished.stdout
    assert "rank 5 is behind (step 1, logging)" in finished.stdout
    assert re.search(r"rank 5: step 1, logging, silent for \d+ s; in .*all_reduce", finished.stdout)
    alone = r"waits in gloo:all_reduce \d+ of group default_pg \(ranks 0, 1, 2, 3, 4, 5, 6, 7\), which rank"
    assert re.search(alone + " 0, 1, 2, 3, 4, 6, 7 never entered", finished.stdout), finished.stdout
    # the wait for Gloo is torch's; the caller is in the whole stack
    assert "alone.py" in (tmp_path / "run/phase1/rank5.stack").read_text()
    assert_nothing_runs(tmp_path / "run")


@pytest.mark.training
def test_a_deadlocked_checkpoint_writer_ends_as_a_report_that_shows_it(tmp_path: Path) -> None:
    plugin = tmp_path / "deadlock.py"
    plugin.write_text(DEADLOCKED_WRITER)
    finished = short_run.run("train", tmp_path / "run", "--rank-plugin", plugin, "--hang-timeout", "8")
    assert finished.returncode == 4, finished.stdout
    report = finished.stdout.partition("no rank made progress")[2]
    assert re.search(r"rank \d is behind \(step \d, saving checkpoint\)", report)
    rank_3 = report.partition("  rank 3:")[2].partition("  rank 4:")[0]
    assert re.search(r"its process \d+: in .*deadlock\.py", rank_3), report
    assert "deadlock.py" not in report.replace(rank_3, ""), "other ranks' writers are not to blame"
    tracker = tmp_path / "run/checkpoints/latest_checkpointed_iteration.txt"
    assert not tracker.exists(), "no checkpoint was ever complete"
    assert_nothing_runs(tmp_path / "run")


@pytest.mark.training
def test_two_runs_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    processes = [started(tmp_path / name, step="phase 1") for name in ("one", "two")]
    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    values = [(tmp_path / name / "actual_phase1.json").read_text() for name in ("one", "two")]
    losses = [text.partition('"lm loss"')[2].partition("}")[0] for text in values]
    assert losses[0] == losses[1]
