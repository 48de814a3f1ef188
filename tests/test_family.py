"""Several cases in one session."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tasks.exits import UsageError
from tasks.family import Outcome, choose, table

MEANINGS = {1: "does not match", 3: "training failed"}


def run_with(tmp_path: Path, *rows: dict) -> Path:
    (tmp_path / "report.json").write_text(json.dumps({"rows": rows}))
    return tmp_path


def row(metric: str, step: int | None, *, passed: bool = False) -> dict:
    return {"comparison": "golden", "metric": metric, "first_step": step, "passed": passed}


def test_the_first_failed_step_is_shown_and_what_passed_is_not(tmp_path: Path) -> None:
    rows = [row("rng", None), row("lm loss", 7), row("grad-norm", 6), row("time", 1, passed=True)]
    outcome = Outcome(case="a", exit_code=1, seconds=61.4, run_dir=run_with(tmp_path, *rows))
    line = table([outcome], MEANINGS).splitlines()[1]
    assert re.split(" {2,}", line) == ["a", "does not match", "61", "golden: grad-norm at step 6"]


def test_a_row_without_a_step_and_runs_without_a_report_are_shown_too(tmp_path: Path) -> None:
    state = Outcome(case="a", exit_code=1, run_dir=run_with(tmp_path, row("state: rng", None)))
    crashed = Outcome(case="b", exit_code=3, run_dir=tmp_path / "nowhere")
    skipped = Outcome(case="c", exit_code=None, reason="DATA_PATH is not set")
    lines = table([state, crashed, skipped, Outcome(case="d", exit_code=0)], MEANINGS).splitlines()
    assert lines[1].endswith("golden: state: rng")
    assert lines[2].split() == ["b", "training", "failed", "0"]
    assert lines[3].split() == ["c", "skipped", "DATA_PATH", "is", "not", "set"]
    assert lines[4].split() == ["d", "passed", "0"]


def test_cases_are_chosen_in_their_usual_order_and_a_wrong_name_is_told() -> None:
    assert choose(["a", "b", "c"], ["c", "a"]) == ["a", "c"]
    assert choose(["a", "b"], []) == ["a", "b"]
    with pytest.raises(UsageError, match=r"--only aple: there is no such case. Did you mean apple\?"):
        choose(["apple", "pear"], ["aple"])
