"""Several cases in one session: which are run, what counts, the table."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path

import pytest

from tasks.cases.quarantine import Quarantine
from tasks.suite.outcomes import ENDED, NOT_REACHED, RUNNING, SKIPPED, CaseResult, choose, exit_code, table
from tasks.util.exits import UsageError

TODAY = datetime.date(2026, 11, 24)
HELD = Quarantine(owner="me", reason="flaky sums", until=TODAY)
OVER = Quarantine(owner="me", reason="flaky sums", until=TODAY - datetime.timedelta(days=1))


def run_with(tmp_path: Path, *rows: dict) -> Path:
    (tmp_path / "report.json").write_text(json.dumps({"exit_code": 1, "rows": rows}))
    return tmp_path


def row(metric: str, step: int | None, *, passed: bool = False) -> dict:
    return {"comparison": "golden", "metric": metric, "first_step": step, "passed": passed}


def ended(code: int, case: str = "a", **fields: object) -> CaseResult:
    return CaseResult(case=case, state=ENDED, exit_code=code, **fields)


# ---- the table ----


def test_the_first_failed_step_is_shown_and_what_passed_is_not(tmp_path: Path) -> None:
    rows = [row("rng", None), row("lm loss", 7), row("grad-norm", 6), row("time", 1, passed=True)]
    line = table([ended(1, seconds=61.4, run_dir=run_with(tmp_path, *rows))], TODAY).splitlines()[1]
    assert re.split(" {2,}", line) == ["a", "does not match", "61", "golden: grad-norm at step 6"]


def test_a_row_without_a_step_and_runs_without_a_report_are_shown_too(tmp_path: Path) -> None:
    state = ended(1, run_dir=run_with(tmp_path, row("state: rng", None)))
    crashed = ended(3, "b", run_dir=tmp_path / "nowhere")
    skipped = CaseResult(case="c", state=SKIPPED, reason="DATA_PATH is not set")
    lines = table([state, crashed, skipped, ended(0, "d"), CaseResult(case="e")], TODAY).splitlines()
    assert lines[1].endswith("golden: state: rng")
    assert lines[2].split() == ["b", "training", "failed", "0"]
    assert lines[3].split() == ["c", "skipped", "DATA_PATH", "is", "not", "set"]
    assert lines[4].split() == ["d", "passed", "0"]
    assert lines[5].split() == ["e", "not", "reached"]


def test_the_report_of_an_earlier_run_in_the_same_folder_is_not_used(tmp_path: Path) -> None:
    run_dir = run_with(tmp_path, row("lm loss", 6))
    assert ended(1, run_dir=run_dir).first_difference() == "golden: lm loss at step 6"
    for other in (ended(0, run_dir=run_dir), ended(2, run_dir=run_dir), ended(3, run_dir=run_dir)):
        assert other.first_difference() == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"exit_code": 1}', '{"exit_code": 1, "rows": [{}]}'])
def test_a_report_that_is_none_does_not_cost_the_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    assert ended(1, run_dir=tmp_path).first_difference() == ""


@pytest.mark.parametrize(
    ("outcome", "verdict", "note"),
    [
        (ended(1, quarantine=HELD), "quarantined: does not match", "a: in quarantine until 2026-11-24 (me:"),
        (ended(0, quarantine=HELD), "quarantined: passed", "a: passed in quarantine: take it out (me: flaky"),
        (ended(1, quarantine=OVER), "does not match", "a: its quarantine ended on 2026-11-23 (me: flaky"),
        (
            ended(2, quarantine=HELD),
            "bad usage or input",
            "a: in quarantine, which does not excuse this: bad",
        ),
        (CaseResult(case="a", state=SKIPPED, quarantine=HELD), "skipped", "a: in quarantine until"),
    ],
)
def test_a_quarantine_is_reported(outcome: CaseResult, verdict: str, note: str) -> None:
    lines = table([outcome], TODAY).splitlines()
    assert re.split(" {2,}", lines[1])[1] == verdict
    assert lines[2].startswith(note)


# ---- what counts ----


@pytest.mark.parametrize(("code", "counted"), [(0, 0), (1, 0), (2, 2), (3, 0), (4, 0), (5, 5)])
def test_a_quarantine_excuses_what_a_run_shows_and_nothing_else(code: int, counted: int) -> None:
    assert exit_code([ended(code, quarantine=HELD)], TODAY, require=False) == counted
    assert exit_code([ended(code, quarantine=OVER)], TODAY, require=False) == code


def test_what_was_not_run_is_no_pass() -> None:
    skipped = CaseResult(case="x", state=SKIPPED)
    for require in (False, True):
        assert exit_code([], TODAY, require=require) == 5
        assert exit_code([skipped, skipped], TODAY, require=require) == 5
        assert exit_code([CaseResult(case="x")], TODAY, require=require) == 5
    with pytest.raises(UsageError, match="no case to run"):
        choose([], [])


@pytest.mark.parametrize("state", [NOT_REACHED, RUNNING])
def test_what_did_not_come_to_its_end_is_no_pass_beside_one(state: str) -> None:
    assert exit_code([ended(0), CaseResult(case="x", state=SKIPPED)], TODAY, require=False) == 0
    assert exit_code([ended(0), CaseResult(case="x", state=state)], TODAY, require=False) == 5


def test_the_first_failure_that_counts_decides() -> None:
    skipped = CaseResult(case="s", state=SKIPPED)
    outcomes = [ended(0), ended(4, quarantine=HELD), ended(3), ended(1), skipped]
    assert exit_code(outcomes, TODAY, require=True) == 3
    assert exit_code([ended(1), ended(3)], TODAY, require=True) == 1
    assert exit_code([ended(0), skipped], TODAY, require=True) == 5
    assert exit_code([ended(0), skipped], TODAY, require=False) == 0


# ---- which cases ----


def test_cases_are_chosen_in_their_usual_order_and_a_wrong_name_is_reported() -> None:
    assert choose(["a", "b", "c"], ["c", "a"]) == ["a", "c"]
    assert choose(["a", "b"], []) == ["a", "b"]
    with pytest.raises(UsageError, match=r"--only aple: there is no such case. Did you mean apple\?"):
        choose(["apple", "pear"], ["aple"])
