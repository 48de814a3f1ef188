"""noxfile.py, run as people run it: in a copy of the repository whose tasks only say what they were asked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.case import REPOSITORY, list_cases

NOX_ENVIRONMENT = ("NOX_CURRENT_SESSION", "VIRTUAL_ENV")
TOLD = """
import os, signal, sys, time
from pathlib import Path
name = Path(__file__).stem
with open("calls.txt", "a") as calls:
    print(name, *sys.argv[1:], file=calls)
answer = os.environ.get(name.upper() + "_EXITS", "0")
if answer == "waits":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("stopped", file=open("calls.txt", "a"))))
    print("waiting", flush=True)
    time.sleep(60)
if answer == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(answer.split()[0 if "first" in sys.argv else -1]))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The noxfile and the modules that it imports, two cases, and tasks that exit as they are told."""
    (tmp_path / "tasks").mkdir()
    for name in ("noxfile.py", "shared_environment.py"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    for name in (
        "__init__",
        "exits",
        "nodes",
        "subject",
        "case_rules",
        "family",
        "plan",
        "platforms",
        "clean",
    ):
        shutil.copy(REPOSITORY / f"tasks/{name}.py", tmp_path / f"tasks/{name}.py")
    for name in ("train", "resume", "diff", "report", "record", "doctor", "environment", "lint_cards"):
        (tmp_path / f"tasks/{name}.py").write_text(TOLD)
    for name in ("first", "second"):
        (tmp_path / "test_cases" / name).mkdir(parents=True)
        (tmp_path / "test_cases" / name / "model_config.yaml").write_text("MODEL_ARGS: {}\n")
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    (tmp_path / "requirements-gpu.txt").write_text("# nothing\n")
    return tmp_path


def nox_environment(**variables: str) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key not in NOX_ENVIRONMENT}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    return {**environment, "CRASH_TEST_DEVICE": "cpu", **variables}


def nox(folder: Path, *arguments: str, no_venv: bool = True, **variables: str) -> subprocess.CompletedProcess:
    no_venv_option = ["--no-venv"] if no_venv else []
    return subprocess.run(
        [sys.executable, "-m", "nox", "--nocolor", *no_venv_option, *arguments],
        cwd=folder,
        env=nox_environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def calls(folder: Path) -> list[str]:
    path = folder / "calls.txt"
    return (
        [re.sub(r"runs/(\w+)/\S+", r"RUN/\1", line) for line in path.read_text().splitlines()]
        if path.exists()
        else []
    )


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


def test_several_cases_share_a_given_directory_but_no_run(checkout: Path) -> None:
    assert nox(checkout, "-s", "regress", "--", "--run-dir", "mine").returncode == 0
    trained = [line for line in calls(checkout) if line.startswith("train")]
    assert trained == ["train first --run-dir mine/first", "train second --run-dir mine/second"]


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


# ---- exit codes ----


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


def test_regress_stops_at_the_first_failure_unless_told_to_go_on(checkout: Path) -> None:
    assert nox(checkout, "-s", "regress", DIFF_EXITS="1 0").returncode == 1
    assert not any("second" in line for line in calls(checkout))
    assert nox(checkout, "-s", "regress", "--", "--keep-going", DIFF_EXITS="1 0").returncode == 1
    assert any("second" in line for line in calls(checkout))


def test_regress_ends_with_a_table_of_its_cases(checkout: Path) -> None:
    printed = nox(checkout, "-s", "regress", "--", "--keep-going", DIFF_EXITS="1 0").stdout
    lines = printed[printed.index("case    verdict") :].splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["case", "first", "second"]
    assert "does not match" in lines[1]
    assert "passed" in lines[2]


def test_regress_runs_only_what_is_named(checkout: Path) -> None:
    assert nox(checkout, "-s", "regress", "--", "--only", "second").returncode == 0
    assert {line.split()[1] for line in calls(checkout) if line.startswith("train")} == {"second"}
    outcome = nox(checkout, "-s", "regress", "--", "--only", "secnd")
    assert outcome.returncode == 2
    assert "Did you mean second?" in outcome.stdout


def test_a_skipped_case_is_no_pass_where_all_are_required(checkout: Path) -> None:
    (checkout / "test_cases/first/model_config.yaml").write_text("MODEL_ARGS: {--data-path: ${DATA_PATH}/x}")
    assert nox(checkout, "-s", "regress", DATA_PATH="").returncode == 0
    outcome = nox(checkout, "-s", "regress", "--", "--require", DATA_PATH="")
    assert outcome.returncode == 5
    assert re.search(r"^first +skipped +DATA_PATH is not set$", outcome.stdout, re.MULTILINE)


def test_several_machines_are_told_to_every_step_and_node_0_draws(checkout: Path) -> None:
    together = ["--nnodes", "2", "--rdzv-endpoint", "127.0.0.1:29400", "--run-dir", "shared"]
    for rank, last in (("0", "report"), ("1", "diff")):
        (checkout / "calls.txt").unlink(missing_ok=True)
        outcome = nox(checkout, "-s", "first", "--", *together, "--node-rank", rank)
        assert outcome.returncode == 0, outcome.stdout
        lines = [line.split() for line in calls(checkout)]
        assert lines[-1][0] == last
        assert all(line[line.index("--node-rank") + 1] == rank for line in lines if line[0] != "report")


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


def test_a_case_whose_data_is_not_there_is_skipped_with_the_reason(checkout: Path) -> None:
    (checkout / "test_cases/first/model_config.yaml").write_text(
        "MODEL_ARGS: {--data-path: '${DATA_PATH}/x'}\n"
    )
    outcome = nox(checkout, "-s", "regress", DATA_PATH="")
    assert outcome.returncode == 0
    assert "first: skipped, since DATA_PATH is not set" in outcome.stdout
    assert calls(checkout)[0].startswith("train second")


@pytest.mark.parametrize("option", ["--sett", "--dry", "--set"])
def test_an_unknown_option_is_bad_usage(checkout: Path, option: str) -> None:
    outcome = nox(checkout, "-s", "first", "--", option)
    assert outcome.returncode == 2
    assert "usage: nox -s first --" in outcome.stdout
    assert not calls(checkout)


def test_help_of_a_session_runs_nothing(checkout: Path) -> None:
    outcome = nox(checkout, "-s", "first", "--", "--help")
    assert outcome.returncode == 0
    assert "--rank-plugin" in outcome.stdout
    assert not calls(checkout)


@pytest.mark.parametrize("session", ["record", "doctor"])
def test_sessions_of_one_task_pass_arguments_and_code(checkout: Path, session: str) -> None:
    outcome = nox(checkout, "-s", session, "--", "first", "--json", **{f"{session.upper()}_EXITS": "5"})
    assert outcome.returncode == 5
    assert calls(checkout) == [f"{session} first --json"]


def test_clean_removes_old_runs_but_none_that_is_running(checkout: Path) -> None:
    for number in range(3):
        (checkout / f"runs/first/{number}").mkdir(parents=True)
        os.utime(checkout / f"runs/first/{number}", (number, number))
    with (checkout / "runs/first/0/log").open("w"):
        os.utime(checkout / "runs/first/0", (0, 0))
        assert nox(checkout, "-s", "clean", "--", "--keep", "1").returncode == 0
    assert sorted(path.name for path in (checkout / "runs/first").iterdir()) == ["0", "2"]


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
        "report --run-dir here",
    ]


def test_a_case_file_of_megatron_lm_is_run_as_it_is(checkout: Path) -> None:
    file = checkout / "theirs" / "model_config.yaml"
    outcome = nox(checkout, "-s", "case", "--", "--case-file", str(file), "--run-dir", "here")
    assert outcome.returncode == 0, outcome.stdout
    assert calls(checkout)[0] == f"train --case-file {file} --run-dir here"
    assert nox(checkout, "-s", "case").returncode == 2
