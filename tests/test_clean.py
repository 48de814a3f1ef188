"""tasks/clean.py: old runs go, the newest and the running stay."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.clean import prunable
from tasks.records.run_lock import held, is_running, lock_file
from tasks.util.exits import CannotRun


def make_runs(root: Path, *, count: int, case: str = "small") -> list[Path]:
    runs = []
    for number in range(count):
        run_dir = root / "runs" / case / f"run{number}"
        run_dir.mkdir(parents=True)
        (run_dir / "rank0.log").write_text("log")
        os.utime(run_dir, (1000 + number, 1000 + number))
        runs.append(run_dir)
    return runs


def clean(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tasks.clean", "--runs", str(root / "runs"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_newest_of_each_case_stay(tmp_path: Path) -> None:
    runs, others = make_runs(tmp_path, count=4), make_runs(tmp_path, count=1, case="other")
    assert clean(tmp_path, "--keep", "2", "--dry-run").stdout.endswith("2 run directories to remove\n")
    assert all(run_dir.exists() for run_dir in runs)
    assert clean(tmp_path, "--keep", "2").returncode == 0
    assert [run_dir.exists() for run_dir in runs] == [False, False, True, True]
    assert others[0].exists()


def test_a_run_whose_session_holds_its_lock_stays(tmp_path: Path) -> None:
    run_dir, _ = make_runs(tmp_path, count=2)
    with lock_file(run_dir).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        clean(tmp_path, "--keep", "0")
        assert run_dir.exists()
    clean(tmp_path, "--keep", "0")
    assert not run_dir.exists()
    assert not lock_file(run_dir).exists()


def test_a_run_with_an_open_log_stays(tmp_path: Path) -> None:
    run_dir, _ = make_runs(tmp_path, count=2)
    with (run_dir / "rank0.log").open():
        assert is_running(run_dir)
        assert prunable(tmp_path / "runs", 0) == [run_dir.with_name("run1")]
    assert not is_running(run_dir)


def test_a_running_run_is_one_by_whatever_path_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, _ = make_runs(tmp_path, count=2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    with (run_dir / "rank0.log").open():
        assert is_running(run_dir.relative_to(tmp_path))
        assert is_running(Path("link/small/run0"))


def test_the_newest_is_the_one_that_was_written_last_whatever_its_name(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, count=3)
    os.utime(runs[0], (5000, 5000))
    assert prunable(tmp_path / "runs", 1) == runs[1:]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs/small").mkdir(parents=True)
    (tmp_path / "runs/small/link").symlink_to(tmp_path / "elsewhere")
    assert clean(tmp_path, "--keep", "0").returncode == 0
    assert (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("arguments", [["--keep", "-1"], ["--keep", "all"]])
def test_bad_numbers(tmp_path: Path, arguments: list[str]) -> None:
    runs = make_runs(tmp_path, count=1)
    assert clean(tmp_path, *arguments).returncode == 2
    assert runs[0].exists()


def test_nothing_to_clean(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert clean(tmp_path).stdout == "0 run directories removed\n"


def test_a_run_that_lies_in_the_folder_itself_is_not_taken_apart(tmp_path: Path) -> None:
    mine, suite, begun = (tmp_path / "runs" / name for name in ("mine", "suite", "begun"))
    for folder, told in ((mine, "case.json"), (suite, "regress.json")):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / told).write_text("{}")
    (begun / "data_cache").mkdir(parents=True)
    with held(begun):
        assert clean(tmp_path, "--keep", "0").stdout == "0 run directories removed\n"
    assert all(
        folder.is_dir() for folder in (mine / "checkpoints", suite / "checkpoints", begun / "data_cache")
    )
    assert clean(tmp_path, "--keep", "0").stdout.endswith(
        "1 run directories removed\n"
    )  # nothing tells of begun


def test_the_first_session_that_ends_leaves_the_lock_to_the_second(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "small" / "run"
    run_dir.mkdir(parents=True)
    with held(run_dir):
        with held(run_dir):
            pass
        assert is_running(run_dir)
    assert not is_running(run_dir)
    assert not lock_file(run_dir).exists()


def test_a_lock_that_another_session_takes_away_while_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, calls = fcntl.flock, []

    def late(file: object, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            lock_file(tmp_path / "run").unlink()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with held(tmp_path / "run"):
        assert is_running(tmp_path / "run")
    assert calls[:2] == [fcntl.LOCK_SH] * 2


def test_a_session_that_is_stopped_leaves_no_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), held(tmp_path / "run"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_that_cannot_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotRun, match="choose another --run-dir"), held(tmp_path / "file" / "run"):
        pass
    monkeypatch.chdir(tmp_path)
    with held(Path(".")):  # it has no name of its own
        assert lock_file(tmp_path).exists()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = clean(tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: --runs {tmp_path}/runs: no such folder\n")
