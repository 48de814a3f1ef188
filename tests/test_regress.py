"""Several cases in one command, with steps that only record their arguments."""

from __future__ import annotations

import datetime
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.checkout import commit
from tests.stub_checkout import add_case, add_sound_case, calls, nox, nox_environment, task

pytestmark = pytest.mark.sessions

TODAY = datetime.date.today()
QUARANTINE = "MODEL_ARGS: {{}}\nQUARANTINE:\n  OWNER: somebody\n  REASON: flaky sums\n  UNTIL: {day}\n"


def regress(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess:
    return task(folder, "tasks.regress", *options, **variables)


def rows(output: str) -> dict[str, str]:
    """The lines of the table by their case."""
    lines = output[output.rindex("case  ") :].splitlines()[1:]
    return dict(re.findall(r"^(first|second|third) +(\S.*)$", "\n".join(lines), re.MULTILINE))


def record(folder: Path, place: str = "runs") -> dict[str, dict]:
    content = json.loads((folder / place / "regress.json").read_text())
    return {row["case"]: row for row in content["cases"]}


def trained(folder: Path) -> list[str]:
    return [line.split()[1] for line in calls(folder) if line.startswith("train")]


# ---- which cases, and what comes out ----


def test_regress_goes_on_after_a_failure_and_its_table_shows_both(checkout: Path) -> None:
    outcome = regress(checkout, DIFF_EXITS="1 0")
    assert outcome.returncode == 1
    assert trained(checkout) == ["first", "second"]
    table = rows(outcome.stdout)
    assert table["first"].startswith("does not match")
    assert table["second"].startswith("passed")


def test_the_first_failing_case_decides_the_exit_code(checkout: Path) -> None:
    assert regress(checkout, TRAIN_EXITS="4 3").returncode == 4
    assert regress(checkout, "--only", "second", TRAIN_EXITS="4 3").returncode == 3


def test_fail_fast_begins_nothing_after_a_failure(checkout: Path) -> None:
    outcome = regress(checkout, "--fail-fast", DIFF_EXITS="1 0")
    assert outcome.returncode == 1
    assert trained(checkout) == ["first"]
    assert rows(outcome.stdout)["second"] == "not reached"


def test_several_cases_share_a_given_directory_but_no_run(checkout: Path) -> None:
    assert regress(checkout, "--run-dir", "mine").returncode == 0
    lines = [line for line in calls(checkout) if line.startswith("train")]
    assert lines == ["train first --run-dir mine/first", "train second --run-dir mine/second"]
    assert set(record(checkout, "mine")) == {"first", "second"}


def test_regress_runs_only_what_is_named(checkout: Path) -> None:
    assert regress(checkout, "--only", "second").returncode == 0
    assert set(trained(checkout)) == {"second"}
    outcome = regress(checkout, "--only", "secnd")
    assert outcome.returncode == 2
    assert "Did you mean second?" in outcome.stdout


def test_a_skipped_case_is_no_pass_where_all_are_required(checkout: Path) -> None:
    add_case(checkout, "first", "MODEL_ARGS: {--data-path: '${DATA_PATH}/x'}\n")
    outcome = regress(checkout, DATA_PATH="")
    assert outcome.returncode == 0
    assert "first: skipped, since DATA_PATH is not set" in outcome.stdout
    assert trained(checkout) == ["second"]
    outcome = regress(checkout, "--require", DATA_PATH="")
    assert outcome.returncode == 5
    assert rows(outcome.stdout)["first"].split(maxsplit=1) == ["skipped", "DATA_PATH is not set"]


def test_a_dry_run_prints_the_steps_of_every_case_and_writes_nothing(checkout: Path) -> None:
    add_case(checkout, "third", "MODEL_ARGS: {--data-path: '${DATA_PATH}/x'}\n")
    for name in ("first", "second"):
        add_sound_case(checkout, name)
    outcome = regress(checkout, "--dry-run", "--jobs", "2", DATA_PATH="")
    assert outcome.returncode == 0
    assert re.findall(r"would run: python -m tasks.train (\w+)", outcome.stdout) == ["first", "second"]
    assert "third: would be skipped, since DATA_PATH is not set" in outcome.stdout
    assert not calls(checkout)
    assert not (checkout / "runs").exists()


def test_a_dry_run_shows_all_plans_and_ends_as_the_first_broken_one(checkout: Path) -> None:
    add_sound_case(checkout, "second")
    card = add_sound_case(checkout, "third")
    card.write_text("{")
    outcome = regress(checkout, "--dry-run")
    assert outcome.returncode == 2
    assert re.findall(r"would run: python -m tasks.train (\w+)", outcome.stdout) == ["second", "third"]
    errors = re.findall(r"^error: (.*)", outcome.stdout, re.MULTILINE)
    assert ["first/model_config.yaml" in errors[0], card.name in errors[1]] == [True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--json"], "--json: only with --list"),
        (["--rerun-failed"], "run nox -s regress first"),
        (["--rerun-failed", "--only", "first"], "--rerun-failed and --only: give one of them"),
        (["--keep-going"], "unrecognized arguments: --keep-going"),
    ],
)
def test_what_cannot_be_is_bad_usage(checkout: Path, options: list[str], message: str) -> None:
    outcome = regress(checkout, *options)
    assert outcome.returncode == 2
    assert message in outcome.stdout
    assert not calls(checkout)


def test_options_of_several_cases_are_none_of_a_single_one(checkout: Path) -> None:
    assert nox(checkout, "-s", "first", "--", "--jobs", "2").returncode == 2
    assert not calls(checkout)


# ---- the list ----


def test_the_list_is_pure_json_on_stdout(checkout: Path) -> None:
    add_case(checkout, "second", "# What it is for. More.\n" + QUARANTINE.format(day=TODAY))
    add_case(checkout, "third", "INHERIT: first\nMODEL_ARGS: {--data-path: '${DATA_PATH}/x'}\n")
    command = [sys.executable, "-m", "nox", "--no-venv", "-s", "regress", "--", "--list", "--json"]
    environment = nox_environment(DATA_PATH="")
    outcome = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=True)
    found = {entry["case"]: entry for entry in json.loads(outcome.stdout)}
    assert list(found) == ["first", "second", "third"]
    assert found["second"]["purpose"] == "What it is for"
    assert found["second"]["quarantine"]["owner"] == "somebody"
    assert found["third"]["skipped"] == "DATA_PATH is not set"
    assert not calls(checkout)


def test_the_list_for_people_has_a_line_a_case(checkout: Path) -> None:
    listed = regress(checkout, "--list", "--only", "second").stdout
    assert re.search(r"^second +regular +cpu_\w+ +One case$", listed, re.MULTILINE)
    assert "first" not in listed


# ---- what failed, again ----


def test_only_what_did_not_pass_is_run_again_until_all_passed(checkout: Path) -> None:
    assert regress(checkout, TRAIN_EXITS="3 0").returncode == 3
    assert record(checkout)["first"]["verdict"] == "training failed"
    outcome = regress(checkout, "--rerun-failed")
    assert outcome.returncode == 0
    assert trained(checkout) == ["first", "second", "first"]
    verdicts = {case: row["verdict"] for case, row in record(checkout).items()}
    assert verdicts == {"first": "passed", "second": "passed"}, "what passed before is kept"
    outcome = regress(checkout, "--rerun-failed")
    assert outcome.returncode == 2, "what passed is of no commit"
    assert "not of this very commit: run nox -s regress" in outcome.stdout
    assert len(trained(checkout)) == 3


def test_where_all_passed_with_this_commit_there_is_nothing_to_run(checkout: Path) -> None:
    commit(checkout, "noxfile.py")
    assert regress(checkout).returncode == 0
    outcome = regress(checkout, "--rerun-failed")
    assert outcome.returncode == 0
    assert "there is nothing to run again" in outcome.stdout
    assert trained(checkout) == ["first", "second"]


def test_what_was_not_reached_is_run_again_too_beside_the_run_that_failed(checkout: Path) -> None:
    options = ("--run-dir", "mine")
    regress(checkout, *options, "--fail-fast", DIFF_EXITS="1 0")
    (checkout / "mine/first").mkdir()
    assert regress(checkout, *options, "--rerun-failed").returncode == 0
    lines = [line for line in calls(checkout) if line.startswith("train")][1:]
    assert lines == ["train first --run-dir mine/first-2", "train second --run-dir mine/second"]


def test_the_list_shows_the_cases_to_run_again(checkout: Path) -> None:
    assert regress(checkout, TRAIN_EXITS="0 3").returncode == 3
    listed = regress(checkout, "--list", "--rerun-failed").stdout
    assert re.findall(r"^(first|second) ", listed, re.MULTILINE) == ["second"]
    assert trained(checkout) == ["first", "second"]


def test_the_record_of_an_earlier_regress_is_kept(checkout: Path) -> None:
    assert regress(checkout, "--run-dir", "mine", TRAIN_EXITS="0 3").returncode == 3
    before = record(checkout, "mine")
    outcome = regress(checkout, "--run-dir", "mine", "--only", "first")
    assert outcome.returncode == 2
    assert "mine/regress.json: is the record of an earlier regress: choose another" in outcome.stdout
    assert record(checkout, "mine") == before
    assert trained(checkout) == ["first", "second"]


def test_nothing_failed_but_something_skipped_is_no_pass(checkout: Path) -> None:
    add_case(checkout, "first", "MODEL_ARGS: {--data-path: '${DATA_PATH}/x'}\n")
    regress(checkout, DATA_PATH="")
    outcome = regress(checkout, "--rerun-failed", DATA_PATH="")
    assert outcome.returncode == 5
    assert "this was skipped: first" in outcome.stdout


# ---- several at once ----


def test_two_cases_run_at_once_and_their_output_is_not_mixed(checkout: Path) -> None:
    outcome = regress(checkout, "--jobs", "2", "--run-dir", "mine", TRAIN_EXITS="meets")
    assert outcome.returncode == 0, outcome.stdout
    steps = re.findall(r"^\$ python -m tasks\.(\w+) .*mine/(\w+)$", outcome.stdout, re.MULTILINE)
    tasks = ["train", "resume", "diff", "report"]
    for case in ("first", "second"):
        begin = steps.index(("train", case))
        assert steps[begin : begin + 4] == [(task, case) for task in tasks]
        kept = (checkout / "mine" / case / "output.log").read_text()
        assert re.findall(r"tasks\.(\w+)", kept) == tasks


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_all_cases_and_the_record_says_how_far_they_came(checkout: Path, number: int) -> None:
    add_case(checkout, "third")
    command = [sys.executable, "-m", "nox", "--no-venv", "-s", "regress", "--", "--jobs", "2"]
    session = subprocess.Popen(
        [*command, "--run-dir", "mine"],
        cwd=checkout,
        env=nox_environment(TRAIN_EXITS="waits"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run with "&"
    )
    logs = [checkout / "mine" / case / "output.log" for case in ("first", "second")]
    while not all(log.is_file() and "waiting" in log.read_text() for log in logs):
        assert session.poll() is None
        time.sleep(0.05)
    processes = psutil.Process(session.pid).children(recursive=True)
    session.send_signal(number)
    printed, _ = session.communicate(timeout=30)
    assert session.returncode == 130, printed
    assert not any(process.is_running() for process in processes)
    assert calls(checkout).count("stopped") == 2
    expected = {"first": "interrupted", "second": "interrupted", "third": "not reached"}
    assert rows(printed) == expected
    assert {case: row["verdict"] for case, row in record(checkout, "mine").items()} == expected


# ---- quarantine ----


def test_a_failure_in_quarantine_is_shown_and_does_not_count(checkout: Path) -> None:
    add_case(checkout, "first", QUARANTINE.format(day=TODAY))
    outcome = regress(checkout, "--fail-fast", DIFF_EXITS="1 0")
    assert outcome.returncode == 0
    table = rows(outcome.stdout)
    assert table["first"].startswith("quarantined: does not match")
    assert table["second"].startswith("passed")
    assert record(checkout)["first"]["counts"] is False
    assert regress(checkout, DIFF_EXITS="0 1").returncode == 1, "another case's failure counts"


def test_after_its_last_day_a_quarantine_counts_again(checkout: Path) -> None:
    yesterday = TODAY - datetime.timedelta(days=1)
    add_case(checkout, "first", QUARANTINE.format(day=yesterday))
    outcome = regress(checkout, DIFF_EXITS="1 0")
    assert outcome.returncode == 1
    assert rows(outcome.stdout)["first"].startswith("does not match")
    assert f"first: its quarantine ended on {yesterday} (somebody: flaky sums)" in outcome.stdout


def test_a_quarantine_that_cannot_be_read_is_bad_usage_and_nothing_is_run(checkout: Path) -> None:
    add_case(checkout, "first", QUARANTINE.format(day="soon"))
    for options in ((), ("--list",)):
        outcome = regress(checkout, *options)
        assert outcome.returncode == 2
        assert "QUARANTINE.UNTIL: 'soon' is no day" in outcome.stdout
    assert not calls(checkout)


def test_a_case_alone_fails_in_quarantine_or_not(checkout: Path) -> None:
    add_case(checkout, "first", QUARANTINE.format(day=TODAY))
    assert nox(checkout, "-s", "first", DIFF_EXITS="1").returncode == 1
