"""The exit codes of sessions, and how they are stopped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stub_checkout import calls, nox, nox_environment

pytestmark = pytest.mark.sessions


@pytest.mark.parametrize(
    ("step", "answer", "code"),
    [("train", "3", 3), ("train", "4", 4), ("train", "killed", 3), ("diff", "1", 1), ("diff", "2", 2)],
)
def test_the_code_of_the_task_is_that_of_nox(checkout: Path, step: str, answer: str, code: int) -> None:
    outcome = nox(checkout, "-s", "first", **{f"{step.upper()}_EXITS": answer})
    assert outcome.returncode == code
    assert "Session first" in outcome.stdout


@pytest.mark.parametrize(("answer", "code"), [("killed", 3), ("77", 3), ("1", 1)])
def test_a_task_that_ends_with_another_code_has_failed(checkout: Path, answer: str, code: int) -> None:
    assert nox(checkout, "-s", "record", RECORD_EXITS=answer).returncode == code


def test_a_task_that_the_kernel_killed_for_lack_of_memory_cannot_run_here(checkout: Path) -> None:
    counts = 'def kills():\n    return Path("calls.txt").exists()\n'
    file = checkout / "tasks/machine/host_memory.py"
    file.write_text(f"{file.read_text()}\n\n{counts}")
    outcome = nox(checkout, "-s", "record", RECORD_EXITS="killed")
    assert outcome.returncode == 5
    assert "tasks.record was killed by the kernel, for lack of memory" in outcome.stdout


def test_other_sessions_still_run_and_the_first_code_wins(checkout: Path) -> None:
    outcome = nox(checkout, "-s", "first", "second", "doctor", TRAIN_EXITS="4 3", DOCTOR_EXITS="5")
    assert outcome.returncode == 4
    assert [line.split()[0] for line in calls(checkout)] == ["train", "train", "doctor"]


@pytest.mark.parametrize("option", ["--sett", "--dry", "--set"])
def test_an_unknown_option_is_bad_usage(checkout: Path, option: str) -> None:
    outcome = nox(checkout, "-s", "first", "--", option)
    assert outcome.returncode == 2
    assert "usage: nox -s first --" in outcome.stdout
    assert not calls(checkout)


@pytest.mark.parametrize("session", ["record", "doctor"])
def test_sessions_of_one_task_pass_arguments_and_code(checkout: Path, session: str) -> None:
    outcome = nox(checkout, "-s", session, "--", "first", "--json", **{f"{session.upper()}_EXITS": "5"})
    assert outcome.returncode == 5
    assert calls(checkout) == [f"{session} first --json"]


def test_sigterm_to_the_session_stops_the_running_task_and_all_that_would_follow(checkout: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nox", "--no-venv", "-s", "first"],
        cwd=checkout,
        env=nox_environment(TRAIN_EXITS="waits"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert any("waiting" in line for line in iter(process.stdout.readline, ""))
    process.terminate()
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 130, rest
    assert calls(checkout) == ["train first --run-dir RUN/first", "stopped"]


@pytest.mark.parametrize(
    "words",
    [
        ["clean", "--", "--keep", "-1"],
        ["clean", "--", "--bogus"],
        ["doctor", "--", "--list"],
        ["first", "--", "--data-path", ""],
    ],
)
def test_bad_usage_of_any_session_is_told_without_a_traceback(checkout: Path, words: list[str]) -> None:
    outcome = nox(checkout, "-s", *words, DOCTOR_EXITS="2")
    assert outcome.returncode == 2
    assert "Traceback" not in outcome.stdout


def test_a_case_file_that_is_no_text_does_not_cost_the_menu(checkout: Path) -> None:
    (checkout / "test_cases" / "first" / "model_config.yaml").write_bytes(b"# \xff\n")
    assert nox(checkout, "-l").returncode == 0
