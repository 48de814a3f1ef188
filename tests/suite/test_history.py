"""The record of a regress, and what --rerun-failed takes from it. The whole way is in test_regress.py."""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import pytest

from tasks.cases.quarantine import Quarantine
from tasks.machine import platforms
from tasks.suite import history
from tasks.suite.history import Record, read, select
from tasks.suite.outcomes import ENDED, RUNNING, SKIPPED, CaseResult
from tasks.util.exits import CannotRun, UsageError

TODAY = datetime.date(2026, 11, 24)
unpatched = history.run_conditions
HERE = {"commit": "c" * 40, "environment": "lts", "platform": "cpu_x86_64", "changes": []}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Conditions of the run; a test may change them."""
    found = dict(HERE)
    monkeypatch.setattr(history, "run_conditions", lambda options: dict(found))
    return found


def again(folder: Path, *, require: bool = False) -> argparse.Namespace:
    return argparse.Namespace(rerun_failed=True, only=[], run_dir=folder, require=require)


def recorded(folder: Path, *cases: str) -> Record:
    outcomes = [CaseResult(case=case) for case in cases]
    return Record(folder / "regress.json", outcomes, today=TODAY, passed_with=HERE)


def test_it_is_written_as_cases_end(tmp_path: Path) -> None:
    record = recorded(tmp_path, "a", "b")
    assert [row["verdict"] for row in read(tmp_path / "regress.json")] == ["not reached"] * 2
    record.note("a", state=RUNNING, run_dir=Path("runs/a"))
    assert [row["verdict"] for row in read(tmp_path / "regress.json")] == ["running", "not reached"]
    held = Quarantine(owner="me", reason="sums", until=TODAY)
    record.note("a", state=ENDED, exit_code=1, seconds=2.5, quarantine=held)
    row = read(tmp_path / "regress.json")[0]
    assert row == {
        "case": "a",
        "verdict": "quarantined: does not match",
        "exit_code": 1,
        "counts": False,
        "seconds": 2.5,
        "run_dir": "runs/a",
        "first_difference": None,
        "reason": None,
        "quarantine": {"owner": "me", "reason": "sums", "until": "2026-11-24", "ended": False},
        **HERE,
    }
    assert json.loads((tmp_path / "regress.json").read_text())["ended"] is None
    record.close()
    assert json.loads((tmp_path / "regress.json").read_text())["ended"] is not None
    assert [path.name for path in tmp_path.iterdir()] == ["regress.json"]


def test_whatever_did_not_pass_is_run_again(tmp_path: Path) -> None:
    """A killed session leaves a case that says it is running."""
    record = recorded(tmp_path, "a", "b", "c", "d", "e")
    record.note("a", state=ENDED, exit_code=0)
    record.note("b", state=ENDED, exit_code=4)
    record.note("c", state=RUNNING)
    record.note("d", state=SKIPPED, reason="why")
    assert select(["a", "b", "c", "d", "e"], again(tmp_path)) == ["b", "c", "d", "e"]
    record.close()
    assert read(tmp_path / "regress.json")[2]["verdict"] == "interrupted"
    assert select(["a", "b", "c", "d", "e"], again(tmp_path)) == ["b", "c", "d", "e"]


def test_only_when_all_passed_there_is_nothing_to_run(tmp_path: Path) -> None:
    record = recorded(tmp_path, "a", "b")
    record.note("a", state=ENDED, exit_code=0)
    record.note("b", state=SKIPPED, reason="why")
    with pytest.raises(CannotRun, match=r"nothing failed in .*regress.json, but this was skipped: b"):
        select(["a", "b"], again(tmp_path))
    record.note("b", state=ENDED, exit_code=0)
    assert select(["a", "b"], again(tmp_path)) == []


def test_what_passed_on_another_kind_of_machine_is_run_again(tmp_path: Path, here: dict) -> None:
    recorded(tmp_path, "a", "b").note("a", state=ENDED, exit_code=0)
    assert select(["a", "b"], again(tmp_path)) == ["b"]
    for name in ("environment", "platform", "changes"):
        here |= {**HERE, name: "another"}
        assert select(["a", "b"], again(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("commit", ["d" * 40, "c" * 40 + "-dirty", "unknown"])
def test_nothing_to_run_is_no_pass_of_another_commit(tmp_path: Path, here: dict, commit: str) -> None:
    record = recorded(tmp_path, "a", "b")
    record.note("a", state=ENDED, exit_code=0)
    here["commit"] = commit
    assert select(["a", "b"], again(tmp_path)) == ["b"]
    record.note("b", state=ENDED, exit_code=0)
    with pytest.raises(UsageError, match=r"nothing failed in .*, but it is not of this very commit: run nox"):
        select(["a", "b"], again(tmp_path))


def test_two_states_without_a_commit_are_never_the_same(tmp_path: Path, here: dict) -> None:
    here["commit"] = "c" * 40 + "-dirty"
    record = Record(tmp_path / "regress.json", [CaseResult(case="a")], today=TODAY, passed_with=here)
    record.note("a", state=ENDED, exit_code=0)
    with pytest.raises(UsageError, match="not of this very commit"):
        select(["a"], again(tmp_path))


def test_run_conditions_are_those_of_this_checkout_machine_and_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = argparse.Namespace(set=["lr=0.5"], rank_plugin=[Path("p.py")], trainer="megatron")
    assert unpatched(options) == {
        "commit": platforms.git_commit(),
        "environment": platforms.environment(),
        "platform": platforms.detect().name,
        "changes": ["rank_plugin=['p.py']", "set=['lr=0.5']", "trainer=megatron"],
    }
    monkeypatch.setenv("CRASH_TEST_DEVICE", "tpu")
    assert unpatched(options)["platform"] == "none", "each case says why it cannot run"


def test_rows_of_cases_that_are_not_run_again_are_kept(tmp_path: Path) -> None:
    first = recorded(tmp_path, "a", "b")
    first.note("a", state=ENDED, exit_code=0, seconds=3.0)
    path = tmp_path / "regress.json"
    Record(path, [CaseResult(case="b")], earlier=read(path), today=TODAY, passed_with=HERE)
    assert [(row["case"], row["seconds"]) for row in read(path)] == [("a", 3.0), ("b", None)]


def test_a_record_without_cases_is_no_pass(tmp_path: Path) -> None:
    (tmp_path / "regress.json").write_text('{"cases": []}')
    with pytest.raises(UsageError, match="ran no case"):
        select(["a"], again(tmp_path))


def test_a_removed_case_is_reported(tmp_path: Path) -> None:
    recorded(tmp_path, "a")
    with pytest.raises(UsageError, match="a is to be run again, and is no case any more"):
        select(["b"], again(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"cases": [1]}',
        '{"cases": [{"case": "a"}]}',
        '{"cases": [{"case": "a", "verdict": "passed", "exit_code": false}]}',
    ],
)
def test_an_invalid_record_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "regress.json").write_text(text)
    with pytest.raises(UsageError, match="is no record of a regress"):
        read(tmp_path / "regress.json")


def test_another_machine_writes_none(tmp_path: Path) -> None:
    record = Record(None, [CaseResult(case="a")], today=TODAY, passed_with=HERE)
    record.close()
    assert list(tmp_path.iterdir()) == []


def test_it_lies_where_the_runs_are(tmp_path: Path) -> None:
    assert history.path_for(argparse.Namespace(run_dir=None)) == Path("runs/regress.json")
    assert history.path_for(argparse.Namespace(run_dir=tmp_path)) == tmp_path / "regress.json"


def test_what_never_ran_is_run_where_every_case_is_required(tmp_path: Path) -> None:
    recorded(tmp_path, "b").note("b", state=ENDED, exit_code=0)
    assert select(["a", "b", "c"], again(tmp_path)) == []
    assert select(["a", "b", "c"], again(tmp_path, require=True)) == ["a", "c"]
    recorded(tmp_path, "b").note("b", state=SKIPPED)
    assert select(["a", "b"], again(tmp_path, require=True)) == ["a", "b"]
