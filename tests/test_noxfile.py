"""noxfile.py, run as people run it, in a copy of the repository with steps that train nothing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.cases.names import case_names
from tasks.util.files import REPOSITORY
from tests import stub_checkout
from tests.stub_checkout import NOX_FILES, add_sound_case, calls, nox

pytestmark = pytest.mark.sessions

# ---- the menu ----


def test_the_menu_lists_every_session_with_a_line() -> None:
    lines = dict(re.findall(r"^[-*] (\S+) -> (.+)$", nox(REPOSITORY, "-l").stdout, re.MULTILINE))
    assert set(lines) == {
        *case_names(),
        "regress",
        "record",
        "tests",
        "faults",
        "lint",
        "check",
        "doctor",
        "clean",
        "case",
    }
    assert all(line.endswith(".") for line in lines.values())
    assert len(set(lines.values())) == len(lines), "two sessions say the same"


def test_only_regress_runs_without_being_asked() -> None:
    selected = re.findall(r"^\* (\S+) ->", nox(REPOSITORY, "-l").stdout, re.MULTILINE)
    assert selected == ["regress"]


def test_an_unknown_session_is_bad_usage_and_the_known_ones_are_named(checkout: Path) -> None:
    outcome = nox(checkout, "-s", "frist", "--", "--dry-run")
    assert outcome.returncode == 2
    assert "no session 'frist'. Did you mean first? Sessions: first, second, regress, case" in outcome.stdout


def test_the_shell_completes_the_names_of_sessions(tmp_path: Path) -> None:
    """As argcomplete's shell function asks: with the line so far, and a file for the answer."""
    words = {"_ARGCOMPLETE": "1", "COMP_LINE": "nox -s gpt3", "COMP_POINT": "11", "_ARGCOMPLETE_IFS": "\n"}
    answer = tmp_path / "answer"
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'nox'; from nox import main; main()"]
    environment = {**os.environ, **words, "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    subprocess.run(command, cwd=REPOSITORY, env=environment, timeout=60, check=False)
    cases = [case for case in case_names() if case.startswith("gpt3")]
    assert [line.strip() for line in answer.read_text().split("\n")] == cases


def test_what_the_noxfile_reads_needs_nothing_that_is_not_installed_with_nox() -> None:
    """Its modules are imported where no installed package is found."""
    files = [REPOSITORY / name for name in NOX_FILES]
    read = [node for file in files for node in ast.parse(file.read_text()).body]
    of_tasks = [node for node in read if isinstance(node, ast.ImportFrom) and "tasks" in node.module]
    imports = "\n".join(ast.unparse(node) for node in of_tasks)
    assert "names" in imports
    outcome = subprocess.run(
        [sys.executable, "-S", "-c", imports], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr


# ---- sessions and their tasks ----


def test_a_case_is_one_task_that_gets_what_is_behind_the_dashes(checkout: Path) -> None:
    outcome = nox(checkout, "-s", "first", "--", "--run-dir", "mine", "--set", "lr=1")
    assert outcome.returncode == 0, outcome.stdout
    assert "nox > python -m tasks.run first --run-dir mine --set lr=1\n" in outcome.stdout
    assert [line.split()[0] for line in calls(checkout)] == ["train", "resume", "diff", "report"]
    assert calls(checkout)[0] == "train first --run-dir mine --set lr=1"


def test_a_case_file_of_megatron_lm_has_a_session(checkout: Path) -> None:
    outcome = nox(checkout, "-s", "case", "--", "--case-file", "theirs/model_config.yaml")
    assert outcome.returncode == 0, outcome.stdout
    assert calls(checkout)[0].startswith("train --case-file theirs/model_config.yaml --run-dir RUN/theirs")
    assert nox(checkout, "-s", "case").returncode == 2


def test_a_dry_run_of_a_case_is_its_tasks(checkout: Path) -> None:
    add_sound_case(checkout, "first")
    outcome = nox(checkout, "-s", "first", "--", "--dry-run", "--set", "lr=1")
    assert outcome.returncode == 0
    steps = re.findall(r"^would run: python -m tasks\.(\w+)", outcome.stdout, re.MULTILINE)
    assert steps == ["train", "resume", "diff", "report"]
    assert not calls(checkout)


def test_a_dry_run_of_all_tests_names_everything(checkout: Path) -> None:
    add_sound_case(checkout, "gpt3_pp4_resume")
    outcome = nox(checkout, "-s", "tests", "--", "--dry-run")
    assert outcome.returncode == 0, outcome.stdout
    commands = re.findall(r"would run: (?:python -m )?(\S+)", outcome.stdout)
    assert commands == ["ruff", "ruff", "pytest", "tasks.train", "tasks.resume", "tasks.diff", "tasks.report"]


def test_help_of_a_session_runs_nothing(checkout: Path) -> None:
    outcome = nox(checkout, "-s", "first", "--", "--help")
    assert outcome.returncode == 0
    assert "usage: nox -s first --" in outcome.stdout
    assert "--rank-plugin" in outcome.stdout
    assert not calls(checkout)


def test_a_dry_run_of_a_broken_case_is_bad_usage(checkout: Path) -> None:
    outcome = nox(checkout, "-s", "first", "--", "--dry-run")
    assert outcome.returncode == 2
    assert "TEST_TYPE: is missing" in outcome.stdout
    outcome = nox(checkout, "-s", "regress", "--", "--dry-run")
    assert outcome.returncode == 2
    assert len(re.findall(r"^error: \S+/(first|second)/\S+: 2 errors:$", outcome.stdout, re.MULTILINE)) == 2


def test_cases_are_checked_by_name_or_all(checkout: Path) -> None:
    assert nox(checkout, "-s", "check", "--", "first").returncode == 0
    assert nox(checkout, "-s", "check", CHECK_EXITS="2").returncode == 2
    assert calls(checkout) == ["check first", "check"]


@pytest.mark.parametrize("session", ["record", "faults", "doctor"])
def test_a_dry_command_line_is_the_one_that_would_run(checkout: Path, session: str) -> None:
    outcome = nox(checkout, "-s", session, "--", "first", "--reason", "two words", "--dry-run")
    assert f"would run: python -m tasks.{session} first --reason 'two words'\n" in outcome.stdout
    assert not calls(checkout)


def test_the_help_of_record_is_shown_once(checkout: Path) -> None:
    assert nox(checkout, "-s", "record", "--", "--help").returncode == 0
    assert calls(checkout) == ["record --help"]


def test_lint_takes_no_arguments(checkout: Path) -> None:
    outcome = nox(checkout, "-s", "lint", "--", "tasks/run.py")
    assert outcome.returncode == 2
    assert "lint checks everything and takes no arguments: tasks/run.py" in outcome.stdout
    assert not calls(checkout)


def test_clean_removes_old_runs_but_none_that_is_running(checkout: Path) -> None:
    for number in range(3):
        (checkout / f"runs/first/{number}").mkdir(parents=True)
        os.utime(checkout / f"runs/first/{number}", (number, number))
    with (checkout / "runs/first/0/log").open("w"):
        os.utime(checkout / "runs/first/0", (0, 0))
        assert nox(checkout, "-s", "clean", "--", "--keep", "1").returncode == 0
    assert sorted(path.name for path in (checkout / "runs/first").iterdir()) == ["0", "2"]


# ---- the environment ----


def test_one_environment_is_filled_once_and_made_anew_when_the_pins_change(checkout: Path) -> None:
    first = nox(checkout, "-s", "doctor", no_venv=False)
    assert first.returncode == 0, first.stdout
    assert "pip install" in first.stdout
    assert calls(checkout)[0] == "environment verify --dependencies"
    again = nox(checkout, "-s", "doctor", "record", no_venv=False)
    assert "pip install" not in again.stdout
    assert [line for line in calls(checkout)[2:] if "environment" in line] == ["environment verify"] * 2
    name = "lts" if sys.version_info < (3, 12) else "dev"
    assert [path.name for path in (checkout / ".nox").iterdir() if path.is_dir()] == [name]
    (checkout / f".nox/{name}/leftover").touch()
    (checkout / "requirements.txt").write_text("# something else\n")
    changed = nox(checkout, "-s", "doctor", no_venv=False)
    assert "Creating virtual environment" in changed.stdout
    assert not (checkout / f".nox/{name}/leftover").exists()


def test_a_checkout_may_have_any_path(tmp_path: Path) -> None:
    folder = tmp_path / "it's größer than $HOME"
    folder.mkdir()
    stub_checkout.make(folder)
    outcome = nox(folder, "-s", "doctor", no_venv=False)
    assert outcome.returncode == 0, outcome.stdout
    assert calls(folder) == ["environment verify --dependencies", "doctor"]


def test_a_checkout_that_cannot_be_written_is_told_in_one_line(checkout: Path) -> None:
    (checkout / ".nox").touch()  # as good as a read-only disk, also for root
    outcome = nox(checkout, "-s", "doctor", no_venv=False)
    assert outcome.returncode == 5
    assert "cannot be written (File exists): copy the checkout, or make it writable" in outcome.stdout
    assert "Traceback" not in outcome.stdout
    assert not calls(checkout)


def test_an_environment_that_is_not_as_pinned_is_never_reused(checkout: Path) -> None:
    for _ in range(2):
        outcome = nox(checkout, "-s", "doctor", no_venv=False, ENVIRONMENT_EXITS="5")
        assert outcome.returncode == 5
        assert "pip install" in outcome.stdout
    assert not any(line.startswith("doctor") for line in calls(checkout))
