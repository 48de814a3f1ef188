"""noxfile.py, run as people run it: in a copy of the repository whose tasks only say what they were asked."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.cases.loader import list_cases
from tasks.util.files import REPOSITORY
from tests.stub_checkout import calls, nox

pytestmark = pytest.mark.sessions

# ---- the menu ----


def test_the_menu_lists_every_session_with_a_line() -> None:
    lines = dict(re.findall(r"^[-*] (\S+) -> (.+)$", nox(REPOSITORY, "-l").stdout, re.MULTILINE))
    assert set(lines) == {
        *list_cases(),
        "regress",
        "record",
        "tests",
        "faults",
        "lint",
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


def test_a_case_that_waits_for_data_says_so_in_the_menu(checkout: Path) -> None:
    (checkout / "test_cases/first/model_config.yaml").write_text(
        "MODEL_ARGS: {--data-path: '${DATA_PATH}'}\n"
    )
    menu = nox(checkout, "-l", DATA_PATH="").stdout
    assert re.findall(r"- (\w+) -> .*needs DATA_PATH", menu) == ["first"]


def test_the_shell_completes_the_names_of_sessions(tmp_path: Path) -> None:
    """As argcomplete's shell function asks: with the line so far, and a file for the answer."""
    words = {"_ARGCOMPLETE": "1", "COMP_LINE": "nox -s gpt3", "COMP_POINT": "11", "_ARGCOMPLETE_IFS": "\n"}
    answer = tmp_path / "answer"
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'nox'; from nox import main; main()"]
    environment = {**os.environ, **words, "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    subprocess.run(command, cwd=REPOSITORY, env=environment, timeout=60, check=False)
    cases = [case for case in list_cases() if case.startswith("gpt3")]
    assert [line.strip() for line in answer.read_text().split("\n")] == cases


def test_what_the_noxfile_reads_needs_nothing_that_is_not_installed_with_nox() -> None:
    """Its modules are imported where no installed package is found."""
    read = ast.parse((REPOSITORY / "noxfile.py").read_text()).body
    of_tasks = [node for node in read if isinstance(node, ast.ImportFrom) and "tasks" in node.module]
    imports = "\n".join(ast.unparse(node) for node in of_tasks)
    assert "names" in imports
    outcome = subprocess.run(
        [sys.executable, "-S", "-c", imports], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr


# ---- steps ----


def test_a_case_is_four_steps_in_order(checkout: Path) -> None:
    outcome = nox(checkout, "-s", "first")
    assert outcome.returncode == 0, outcome.stdout
    assert calls(checkout) == [
        "train first --run-dir RUN/first",
        "resume first --run-dir RUN/first",
        "diff first --run-dir RUN/first",
        "report --run-dir RUN/first",
    ]


def test_options_reach_the_steps_that_take_them(checkout: Path) -> None:
    options = ["--run-dir", "mine", "--set", "train-iters=60", "--set", "lr=1", "--rank-plugin", "p.py"]
    options += ["--data-path", "d", "--hang-timeout", "9", "--max-restarts", "1", "--retries", "1"]
    outcome = nox(checkout, "-s", "first", "--", *options)
    assert outcome.returncode == 0, outcome.stdout
    launch = "first --run-dir mine --set train-iters=60 --set lr=1 --rank-plugin p.py --data-path d"
    launch += " --hang-timeout 9 --max-restarts 1 --retries 1"
    assert calls(checkout) == [
        f"train {launch}",
        f"resume {launch}",
        "diff first --run-dir mine",
        "report --run-dir mine",
    ]


def test_two_runs_never_share_a_directory(checkout: Path) -> None:
    nox(checkout, "-s", "first")
    nox(checkout, "-s", "first")
    directories = {line.split()[-1] for line in (checkout / "calls.txt").read_text().splitlines()}
    assert len(directories) == 2


def test_dry_run_prints_the_steps_and_runs_nothing(checkout: Path) -> None:
    outcome = nox(checkout, "-s", "first", "--", "--dry-run", "--set", "lr=1", no_venv=False)
    assert outcome.returncode == 0
    steps = re.findall(r"would run: python -m tasks\.(\w+)", outcome.stdout)
    assert steps == ["train", "resume", "diff", "report"]
    assert re.search(r"platform: cpu_\w+, 8 ranks; environment", outcome.stdout)
    assert "golden card: none: the session would exit 2; record one: nox -s record -- first" in outcome.stdout
    assert not calls(checkout)
    assert not (checkout / ".nox").exists()
    assert not (checkout / "runs").exists()


@pytest.mark.parametrize("session", ["record", "faults", "doctor"])
def test_a_dry_command_line_is_the_one_that_would_run(checkout: Path, session: str) -> None:
    outcome = nox(checkout, "-s", session, "--", "first", "--reason", "two words", "--dry-run")
    assert f"would run: python -m tasks.{session} first --reason 'two words'\n" in outcome.stdout
    assert not calls(checkout)


def test_several_machines_are_told_to_every_step_and_node_0_draws(checkout: Path) -> None:
    together = ["--nnodes", "2", "--rdzv-endpoint", "127.0.0.1:29400", "--run-dir", "shared"]
    for rank, last in (("0", "report"), ("1", "diff")):
        (checkout / "calls.txt").unlink(missing_ok=True)
        outcome = nox(checkout, "-s", "first", "--", *together, "--node-rank", rank)
        assert outcome.returncode == 0, outcome.stdout
        lines = [line.split() for line in calls(checkout)]
        assert lines[-1][0] == last
        assert all(line[line.index("--node-rank") + 1] == rank for line in lines if line[0] != "report")


def test_help_of_a_session_runs_nothing(checkout: Path) -> None:
    outcome = nox(checkout, "-s", "first", "--", "--help")
    assert outcome.returncode == 0
    assert "--rank-plugin" in outcome.stdout
    assert not calls(checkout)


def test_the_help_of_record_is_shown_once(checkout: Path) -> None:
    assert nox(checkout, "-s", "record", "--", "--help").returncode == 0
    assert calls(checkout) == ["record --help"]


def test_lint_takes_no_arguments(checkout: Path) -> None:
    """They were left out in silence."""
    outcome = nox(checkout, "-s", "lint", "--", "tasks/train.py")
    assert outcome.returncode == 2
    assert "lint checks everything and takes no arguments: tasks/train.py" in outcome.stdout
    assert not calls(checkout)


def test_clean_removes_old_runs_but_none_that_is_running(checkout: Path) -> None:
    for number in range(3):
        (checkout / f"runs/first/{number}").mkdir(parents=True)
        os.utime(checkout / f"runs/first/{number}", (number, number))
    with (checkout / "runs/first/0/log").open("w"):
        os.utime(checkout / "runs/first/0", (0, 0))
        assert nox(checkout, "-s", "clean", "--", "--keep", "1").returncode == 0
    assert sorted(path.name for path in (checkout / "runs/first").iterdir()) == ["0", "2"]


def test_a_case_held_to_anothers_card_is_not_recorded_unasked(checkout: Path) -> None:
    (checkout / "test_cases/second/model_config.yaml").write_text("INHERIT: first\nGOLDEN_CARD: first\n")
    assert nox(checkout, "-s", "record", "--", "--reason", "why").returncode == 0
    assert calls(checkout) == ["record first --reason why"]


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


def test_an_environment_that_is_not_as_pinned_is_never_reused(checkout: Path) -> None:
    for _ in range(2):
        outcome = nox(checkout, "-s", "doctor", no_venv=False, ENVIRONMENT_EXITS="5")
        assert outcome.returncode == 5
        assert "pip install" in outcome.stdout
    assert not any(line.startswith("doctor") for line in calls(checkout))


# ---- Megatron-LM under test ----


def test_a_checkout_is_compared_with_another_without_a_card(checkout: Path) -> None:
    outcome = nox(
        checkout,
        *("-s", "first", "--", "--run-dir", "here", "--set", "lr=1", "--megatron-lm", "mine"),
        *("--subject", "branch", "--baseline", "theirs"),
    )
    assert outcome.returncode == 0, outcome.stdout
    tested = "--run-dir here --set lr=1 --megatron-lm mine --subject branch"
    assert calls(checkout) == [
        "train first --run-dir here/baseline --set lr=1 --megatron-lm theirs",
        f"train first {tested}",
        f"resume first {tested}",
        "diff first --run-dir here --golden here/baseline/actual_phase1.json",
        "report --run-dir here --golden here/baseline/actual_phase1.json",
    ]


def test_a_case_file_of_megatron_lm_is_run_as_it_is(checkout: Path) -> None:
    file = checkout / "theirs" / "model_config.yaml"
    outcome = nox(checkout, "-s", "case", "--", "--case-file", str(file), "--run-dir", "here")
    assert outcome.returncode == 0, outcome.stdout
    assert calls(checkout)[0] == f"train --case-file {file} --run-dir here"
    assert nox(checkout, "-s", "case").returncode == 2
    (checkout / "theirs").mkdir()
    nox(checkout, "-s", "case", "--", "--case-file", str(file.parent))
    assert calls(checkout)[-1] == "report --run-dir RUN/theirs"
