"""The exit codes of sessions, and how they are stopped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stub_checkout import calls, nox, nox_environment

pytestmark = pytest.mark.sessions


@pytest.mark.parametrize("code", [2, 3, 4, 5])
@pytest.mark.parametrize("step", ["train", "resume"])
def test_a_training_that_fails_ends_nox_with_its_code(checkout: Path, step: str, code: int) -> None:
    outcome = nox(checkout, "-s", "first", **{f"{step.upper()}_EXITS": str(code)})
    assert outcome.returncode == code
    assert [line.split()[0] for line in calls(checkout)][-1] == step


@pytest.mark.parametrize(("answer", "code"), [("1", 3), ("killed", 3), ("77", 3)])
def test_a_training_that_crashes_is_no_verdict(checkout: Path, answer: str, code: int) -> None:
    assert nox(checkout, "-s", "first", TRAIN_EXITS=answer).returncode == code


@pytest.mark.parametrize("code", [1, 2])
def test_the_verdict_is_the_exit_code_and_the_report_is_drawn(checkout: Path, code: int) -> None:
    outcome = nox(checkout, "-s", "first", DIFF_EXITS=str(code))
    assert outcome.returncode == code
    assert "Session first" in outcome.stdout
    assert calls(checkout)[-1].startswith("report")


def test_a_report_that_cannot_be_drawn_is_no_pass(checkout: Path) -> None:
    assert nox(checkout, "-s", "first", REPORT_EXITS="2").returncode == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nnodes", "2", "--node-rank", "0", "--rdzv-endpoint", "a:1"], "give --run-dir DIR"),
        (["--node-rank", "1"], "need --nnodes"),
    ],
)
def test_half_of_what_several_machines_need_is_bad_usage(
    checkout: Path, options: list[str], message: str
) -> None:
    outcome = nox(checkout, "-s", "first", "--", *options)
    assert outcome.returncode == 2
    assert message in outcome.stdout
    assert not calls(checkout)


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


def test_a_run_directory_that_cannot_be_made_is_no_traceback(checkout: Path) -> None:
    (checkout / "file").write_text("")
    outcome = nox(checkout, "-s", "first", "--", "--run-dir", "file/run")
    assert outcome.returncode == 5
    assert "choose another --run-dir" in outcome.stdout


def test_a_case_file_that_is_no_text_does_not_cost_the_menu(checkout: Path) -> None:
    (checkout / "test_cases" / "first" / "model_config.yaml").write_bytes(b"# \xff\n")
    assert nox(checkout, "-l").returncode == 0
