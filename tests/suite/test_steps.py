"""The steps of a case, and what their exit codes mean. Their command lines are tried in test_run.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.suite.options import read_suite_options
from tasks.suite.steps import Step, case_steps, code_of, exit_code, following

STEPS = [Step(task=task, arguments=()) for task in ("train", "resume", "diff")]
STEPS.append(Step(task="report", arguments=(), always_run=True))


@pytest.mark.parametrize(
    ("codes", "task"),
    [
        ([], "train"),
        ([0], "resume"),
        ([0, 0], "diff"),
        ([0, 0, 0], "report"),
        ([0, 0, 1], "report"),
        ([0, 0, 2], "report"),
        ([3], None),
        ([0, 4], None),
        ([0, 0, 1, 0], None),
    ],
)
def test_a_step_follows_only_when_it_has_something_to_work_on(codes: list[int], task: str | None) -> None:
    step = following(STEPS, codes)
    assert (step.task if step else None) == task


def test_the_first_step_that_failed_decides() -> None:
    assert exit_code([0, 0, 1, 2]) == 1
    assert exit_code([0, 0, 0, 2]) == 2
    assert exit_code([0, 0, 0, 0]) == 0


@pytest.mark.parametrize(
    ("task", "return_code", "code"),
    [
        ("train", 1, 3),
        ("resume", 1, 3),
        ("diff", 1, 1),
        ("train", 4, 4),
        ("train", -9, 3),
        ("diff", -9, 3),
        ("diff", 77, 3),
        ("train", 0, 0),
    ],
)
def test_a_crash_is_no_verdict(task: str, return_code: int, code: int) -> None:
    assert code_of(task, return_code) == code


def test_the_page_is_drawn_with_the_card_that_the_run_was_compared_with() -> None:
    options = read_suite_options(["--baseline", "elsewhere"])
    by_task = {step.task: step.arguments for step in case_steps("gpt3_pp4_resume", options, Path("run"))}
    card = ("--golden", "run/baseline/actual_phase1.json")
    assert by_task["diff"][3:5] == by_task["report"][2:4] == card
