"""The rank that is named as the one that failed, its kind of failure and the exit code."""

from __future__ import annotations

import errno
import json
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.launch import failures
from tasks.launch.failures import InfrastructureFailure, classify_agent_errors, failure_of
from tasks.util.exits import Hang, TrainingFailed, UsageError

LOST = "RuntimeError: [gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:50835: Connection reset by peer"
NO_SPACE_LEFT = "OSError: [Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("notes", "codes", "code", "said"),
    [
        ({0: LOST, 1: LOST}, {}, 3, "transport: rank 0 failed: RuntimeError: [gloo"),
        ({0: LOST, 1: "ValueError: enough"}, {}, 3, "rank 1 failed: ValueError: enough"),
        ({0: LOST, 1: NO_SPACE_LEFT}, {}, 5, "no space: rank 1 failed: OSError"),
        ({0: LOST}, {2: -9}, 3, "killed rank: rank 2 was killed by SIGKILL"),
        ({0: LOST}, {2: -11}, 3, "rank 2 was killed by SIGSEGV"),
        ({}, {1: 7, 2: -15}, 3, "rank 1 ended with exit code 7"),
        ({}, {1: -15, 2: 7}, 3, "rank 2 ended with exit code 7"),
        ({0: LOST}, {2: 0}, 3, "rank 2 ended with exit code 0 before it had finished"),
        ({0: LOST}, {0: 1, 2: 7}, 3, "rank 2 ended with exit code 7 before it had finished"),
    ],
)
def test_a_failure_has_the_exit_code_of_its_kind(
    tmp_path: Path, notes: dict[int, str], codes: dict[int, int], code: int, said: str
) -> None:
    for rank, error in notes.items():
        note = {"seconds": float(rank), "error": error}
        failures.note_file(tmp_path, rank).write_text(json.dumps(note))
    failure = failure_of(tmp_path, codes)
    assert failure.exit_code == code
    assert str(failure).startswith(said)
    kind = json.loads((tmp_path / "failure.json").read_text())["kind"]
    assert kind == (said.partition(":")[0] if ": rank" in said else None)


def test_the_first_that_failed_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    for rank in (4, 2):
        failures.note(tmp_path, rank, ValueError(f"of rank {rank}"))
    (tmp_path / "rank4.log").write_text("what it said")
    assert str(failure_of(tmp_path, {2: 1, 4: 1})) == (
        f"rank 4 failed: ValueError: of rank 4; its log: {tmp_path}/rank4.log; last lines:\n  | what it said"
    )


def test_a_kill_that_the_case_asks_for_is_no_infrastructure_failure(tmp_path: Path) -> None:
    failure = failure_of(tmp_path, {2: -9}, kills_wanted=True, max_restarts=1)
    assert type(failure) is TrainingFailed
    assert "rank 2 was killed by SIGKILL; given up after 1 restarts (--max-restarts 1)" in str(failure)


def test_a_kill_that_the_case_asks_for_excuses_nothing_else(tmp_path: Path) -> None:
    failures.note(tmp_path, 3, OSError(errno.ENOSPC, "No space left on device"))
    assert failure_of(tmp_path, {}, kills_wanted=True).exit_code == 5


def test_bad_input_that_a_rank_finds_is_reported_as_such_if_it_came_first(tmp_path: Path) -> None:
    failures.note(tmp_path, 4, UsageError("iter_0000002: damaged; put it back"))
    failure = failure_of(tmp_path, {4: 1}, max_restarts=1)
    assert (type(failure), str(failure)) == (UsageError, "iter_0000002: damaged; put it back")
    note = {"seconds": 1.0, "error": "ValueError: enough"}
    failures.note_file(tmp_path, 5).write_text(json.dumps(note))
    failure = failure_of(tmp_path, {4: 1, 5: 1})
    assert (failure.exit_code, str(failure)[:33]) == (3, "rank 5 failed: ValueError: enough")


@pytest.mark.parametrize("notes", [{}, {2: LOST}])
def test_a_rank_that_the_kernel_killed_for_memory_is_not_tried_again(
    tmp_path: Path, notes: dict[int, str]
) -> None:
    for rank, error in notes.items():
        failures.note(tmp_path, rank, RuntimeError(error))
    failure = failure_of(tmp_path, {2: -9}, killed_for_memory=True)
    assert str(failure).startswith("memory limit: rank 2 was killed by the kernel, for lack of memory: ")
    assert " MiB; its log: " in str(failure).splitlines()[0]
    assert failure.exit_code == 5
    assert not failure.kind.retry


def test_a_note_that_was_cut_off_is_no_space_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures.note_file(tmp_path, 1).touch()
    failure = failure_of(tmp_path, {1: 1})
    assert failure.exit_code == 3
    assert "could not write why it failed (killed on the way)" in str(failure)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    monkeypatch.setattr("os.fsync", full)
    failure = failure_of(tmp_path, {1: 1})
    assert failure.exit_code == 5
    assert "make space" in str(failure)


def test_a_full_shared_memory_is_told_from_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own error does not say where its locks lie."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize._multiprocessing.SemLock", full)
    with pytest.raises(InfrastructureFailure) as caught, classify_agent_errors(tmp_path):
        multiprocessing.Lock()
    assert caught.value.exit_code == 5
    assert str(caught.value).startswith("shared memory: the elastic agent failed: OSError: /dev/shm: ")
    assert "enlarge /dev/shm" in str(caught.value)
    assert "--run-dir" not in str(caught.value)


def test_an_error_of_the_agent_itself_is_reported_with_its_kind(tmp_path: Path) -> None:
    def failing() -> None:
        try:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        except OSError as cause:
            raise RuntimeError("the connection to the store has failed") from cause

    with pytest.raises(InfrastructureFailure, match="port taken: the elastic agent") as caught:  # noqa: SIM117
        with classify_agent_errors(tmp_path):
            failing()
    assert caught.value.exit_code == 5
    assert json.loads((tmp_path / "failure.json").read_text())["kind"] == "port taken"
    with pytest.raises(ValueError, match="anything else"), classify_agent_errors(tmp_path):
        raise ValueError("anything else")


def test_an_error_that_has_been_reported_is_none_of_the_agent(tmp_path: Path) -> None:
    """A hang's report has what ranks said in it: it is not to be tried again."""
    with pytest.raises(Hang, match=r"^RuntimeError: "), classify_agent_errors(tmp_path):
        raise Hang(LOST)
    assert not (tmp_path / "failure.json").exists()


def test_an_error_that_another_one_led_to_is_of_its_kind(tmp_path: Path) -> None:
    def failing() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise ValueError("while that was handled")

    with pytest.raises(InfrastructureFailure, match="no space"), classify_agent_errors(tmp_path):
        failing()
