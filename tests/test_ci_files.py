"""The CI files: valid by the public schemas of their services, their lines run as a runner runs them."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.cases.names import CASE_FILE, case_names
from tasks.util.files import REPOSITORY
from tests import checkout

GITHUB = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
GITLAB = REPOSITORY / ".gitlab-ci.yml"
SCHEMAS = dict.fromkeys(GITHUB, "vendor.github-workflows") | {GITLAB: "vendor.gitlab-ci"}
CASES = [REPOSITORY / "test_cases" / case / CASE_FILE for case in case_names()]
STEPS = ["tasks.train", "tasks.resume", "tasks.diff", "tasks.report"]
TRAINING = STEPS * sum("${DATA_PATH}" not in case.read_text() for case in CASES)  # regress skips the others
REPORT = "# A report\n"


def github_jobs() -> list[tuple[str, dict, dict]]:
    """Name, workflow and job of every job of GitHub's files."""
    contents = {path.stem: yaml.safe_load(path.read_text()) for path in GITHUB}
    return [
        (f"{stem}/{name}", content, job)
        for stem, content in contents.items()
        for name, job in content["jobs"].items()
    ]


def gitlab_jobs() -> list[tuple[str, dict]]:
    """Name and content of every job of GitLab's file, what it extends put under it."""
    content = yaml.safe_load(GITLAB.read_text())
    return [
        (name, {**content.get(job.get("extends"), {}), **job})
        for name, job in content.items()
        if isinstance(job, dict) and "script" in job
    ]


@pytest.fixture
def runner(tmp_path: Path):
    """Runs shell lines in a checkout, as the services' runners do, and returns the finished process."""
    folder = checkout.copy_to(tmp_path / "checkout")
    path = checkout.programs(tmp_path / "bin", nox=checkout.NOX)

    def run(script: str, **variables: str) -> subprocess.CompletedProcess:
        return checkout.run_script(script, cwd=folder, path=path, **variables)

    run.checkout = folder
    return run


def sessions(output: str) -> list[str]:
    """The sessions that ran, or told what they would run, in order."""
    return re.findall(r"^nox > Session (\w+) was successful", output, re.MULTILINE)


def would_run(output: str) -> list[str]:
    """The programs or modules that dry sessions named, in order."""
    return re.findall(r"would run: (?:python -m )?(\S+)", output)


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_a_file_is_valid_by_the_public_schema_of_its_service(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[path], str(path)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.sessions
@pytest.mark.parametrize(
    ("name", "workflow", "job"), github_jobs(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_lines_of_a_github_job_run(runner, tmp_path: Path, name: str, workflow: dict, job: dict) -> None:
    assert workflow["defaults"]["run"]["shell"] == "bash"  # what the fixture stands for
    summary = tmp_path / "summary.md"
    (runner.checkout / "runs/ci/a_case").mkdir(parents=True)
    (runner.checkout / "runs/ci/a_case/report.md").write_text(REPORT)
    output = ""
    for step in (step for step in job["steps"] if "run" in step):
        assert "${{" not in step["run"], "an expression is put into the shell's text: give it as a variable"
        outcome = runner(step["run"], GITHUB_STEP_SUMMARY=str(summary))
        assert outcome.returncode == 0, f"{step['name']}: {outcome.stdout}"
        output += outcome.stdout
    on_gpus = "gpu" in name
    assert sessions(output) == (["doctor", "regress"] if on_gpus else ["lint", "tests", "regress"])
    assert would_run(output) == [*([] if on_gpus else ["pytest"]), *TRAINING]
    assert summary.read_text() == REPORT


@pytest.mark.sessions
@pytest.mark.parametrize(
    ("name", "job"), gitlab_jobs(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_lines_of_a_gitlab_job_run(runner, name: str, job: dict) -> None:
    outcome = runner("\n".join([*job["before_script"], *job["script"]]))
    assert outcome.returncode == 0, outcome.stdout
    on_gpus = name == "gpu"
    assert sessions(outcome.stdout) == (["doctor", "regress"] if on_gpus else ["lint", "tests", "regress"])
    assert would_run(outcome.stdout) == [*([] if on_gpus else ["pytest"]), *TRAINING]


def test_a_run_without_reports_has_an_empty_summary(runner, tmp_path: Path) -> None:
    for _, _, job in github_jobs():
        lines = [step["run"] for step in job["steps"] if step.get("name") == "Job summary"]
        assert len(lines) == 1
        assert runner(lines[0], GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md")).returncode == 0


@pytest.mark.sessions
def test_a_line_that_fails_fails_its_job(runner) -> None:
    outcome = runner("nox -s no_such_session\necho went on")
    assert outcome.returncode != 0
    assert "went on" not in outcome.stdout


def test_files_call_nothing_but_sessions() -> None:
    """Besides installing nox, and copying the report."""
    github = [step["run"] for _, _, job in github_jobs() for step in job["steps"] if "run" in step]
    gitlab = [line for _, job in gitlab_jobs() for line in (*job["before_script"], *job["script"])]
    lines = itertools.chain.from_iterable(text.strip().splitlines() for text in (*github, *gitlab))
    other = {line.strip() for line in lines if not line.startswith("nox -s ")}
    assert other == {
        "python -m pip install --quiet --constraint requirements.txt nox",
        "for report in runs/ci/*/report.md; do",
        'if [ -f "$report" ]; then cat "$report" >> "$GITHUB_STEP_SUMMARY"; fi',
        "done",
    }


def test_checkpoints_are_never_uploaded_and_environments_are_keyed_by_the_pins() -> None:
    for name, _, job in github_jobs():
        steps = {step["uses"].split("@")[0]: step["with"] for step in job["steps"] if "with" in step}
        assert "hashFiles('requirements" in steps["actions/cache"]["key"], name
        kept = steps["actions/upload-artifact"]["path"].split()  # the last one: what failed
        assert kept == ["runs/ci", "!runs/ci/**/checkpoints"], name
    for name, job in gitlab_jobs():
        assert "requirements.txt" in job["cache"]["key"]["files"], name
        assert job["artifacts"]["exclude"] == ["runs/**/checkpoints/**/*"], name
        assert job["artifacts"]["when"] == "on_failure", name
