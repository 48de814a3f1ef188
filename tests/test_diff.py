"""tasks.diff as people and the session call it: exit code, table, report files, one-line errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tasks import diff
from tasks.judge import run as judge
from tasks.records.card import Card, metric_from
from tasks.records.card_store import write_card
from tasks.util import files
from tasks.util.exits import UsageError
from tasks.util.files import REPOSITORY
from tests.fake_run import CASE, card, value, write_golden, write_run
from tests.program import started_anew

ROW_KEYS = {"comparison", "metric", "check", "steps", "first_step", "worst_step"}
ROW_KEYS |= {"golden", "actual", "abs", "rel", "ulp", "tolerance", "verdict", "passed"}


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "tasks.diff", *map(str, words)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        **options,
    )


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository root with the card of the fake runs."""
    write_golden(tmp_path)
    monkeypatch.setattr(judge, "REPOSITORY", tmp_path)
    monkeypatch.setattr(
        judge.judge_run, "__kwdefaults__", {**judge.judge_run.__kwdefaults__, "root": tmp_path}
    )
    return tmp_path


def test_passing_run_prints_the_table_and_writes_all_reports(root, capsys):
    run = write_run(root / "run")
    assert diff.main([CASE, "--run-dir", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "= exact" in printed
    assert "PASSED" in printed
    assert (run / "report.txt").read_text() == printed
    assert json.loads((run / "report.json").read_text())["passed"] is True
    assert ElementTree.parse(run / "report.xml").getroot().get("failures") == "0"
    assert "| lm loss" in (run / "report.md").read_text()


def test_a_run_that_cannot_be_judged_any_more_keeps_no_report(root, capsys):
    run = write_run(root / "runs" / "r1")
    assert diff.main([CASE, "--run-dir", str(run)]) == 0
    (run / "actual_phase1.json").unlink()
    (root / "report.md").write_text("of somebody else")
    for directory in (run, root):
        with pytest.raises(UsageError):
            diff.main([CASE, "--run-dir", str(directory)])
    assert not list(run.glob("report.*"))
    assert (root / "report.md").read_text() == "of somebody else"


def test_a_report_of_before_that_cannot_be_removed_is_told(root):
    run = write_run(root / "run")
    (run / "report.json").mkdir()
    with pytest.raises(UsageError, match=r"report\.json: cannot be removed \(.*\): judge a copy of the run"):
        diff.main([CASE, "--run-dir", str(run)])


def test_failing_run_names_metric_and_step_in_every_report(root, capsys):
    changed = card(
        change=lambda name, step, number: number + 1e-3 if (name, step) == ("lm loss", 37) else number
    )
    run = write_run(root / "run", phase1=changed, phase2=card(51))
    assert diff.main(["--run-dir", str(run)]) == 1
    line = next(
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("golden") and "lm loss" in line
    )
    assert "✗ regression" in line
    assert " 37 " in line
    failures = [
        case
        for case in ElementTree.parse(run / "report.xml").iter("testcase")
        if case.find("failure") is not None
    ]
    assert [case.get("name") for case in failures] == ["lm loss (exact)"]
    assert "step 37" in failures[0].find("failure").get("message")
    (row,) = [row for row in json.loads((run / "report.json").read_text())["rows"] if not row["passed"]]
    assert (row["first_step"], row["worst_step"], row["golden"]) == (37, 37, value("lm loss", 37))
    assert set(row) >= ROW_KEYS


def test_no_card_shows_the_resume_comparison_then_how_to_record(root, capsys):
    (root / "goldens" / CASE / "golden_values_lts_cpu_x86_64.json").unlink()
    assert diff.main([CASE, "--run-dir", str(write_run(root / "run"))]) == 2
    printed = capsys.readouterr()
    assert "resume" in printed.out
    assert "= exact" in printed.out
    assert printed.err.startswith("error: no golden card of gpt3_pp4_resume for lts on cpu_x86_64")
    assert "nox -s record" in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("form", "start"), [("json", "{"), ("markdown", "### "), ("junit", "<?xml"), ("table", "a.json")]
)
def test_two_cards_in_every_format(tmp_path, capsys, form, start):
    for name in ("a.json", "b.json"):
        write_card(tmp_path / name, card())
    pair = ["--golden", str(tmp_path / "a.json"), "--actual", str(tmp_path / "b.json")]
    assert diff.main([*pair, "--format", form]) == 0
    assert capsys.readouterr().out.startswith(start)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to compare"),
        (["--golden", "a"], "nothing to compare"),
        (["--run-dir", "a", "--actual", "b"], "give one of them"),
        (["--golden", "a", "--actual", "b", "--steps", "9-3"], "--steps 9-3"),
        (["--golden", "a", "--actual", "b", "--steps", "x"], "--steps x"),
        (["--golden", "a", "--actual", "b", "--check", "exact"], "only with --policy megatron"),
        ([CASE, "--golden", "a", "--actual", "b"], "give CASE with --run-dir"),
        (["--golden", __file__, "--actual", __file__], "given twice; a card equals itself"),
        (["--golden", "a", "--actual", "b", "--nnodes", "2"], "two cards are compared on one machine"),
    ],
)
def test_bad_usage_says_what_to_write(words, message):
    with pytest.raises(UsageError, match=message):
        diff.main(words)


def test_a_run_is_no_card_of_itself(root, capsys):
    run = write_run(root / "run")
    own = run / "actual_phase1.json"
    assert diff.main([CASE, "--run-dir", str(run), "--golden", str(own)]) == 2
    assert "is what this run measured; a run equals itself, that shows nothing" in capsys.readouterr().err
    (run / "baseline").mkdir()
    baseline = Path(shutil.copy(own, run / "baseline"))
    assert diff.main([CASE, "--run-dir", str(run), "--golden", str(baseline)]) == 0


@pytest.mark.parametrize("steps", ["1-20", "50", "500-600"])
def test_steps_without_one_of_the_restart_are_told(root, steps):
    run = write_run(root / "run")
    with pytest.raises(UsageError, match=r"holds no step of the restart, 51 to 100"):
        diff.main([CASE, "--run-dir", str(run), "--steps", steps])


def test_what_was_found_is_said_also_where_it_cannot_be_kept(root, capsys, monkeypatch):
    def refuse(path, content):
        raise UsageError(f"{path}: cannot be written (Read-only file system)")

    run = write_run(root / "run", phase1=card(change=lambda name, step, number: number + (step == 7)))
    monkeypatch.setattr(files, "write_atomically", refuse)
    with pytest.raises(UsageError, match="cannot be written"):
        diff.main([CASE, "--run-dir", str(run)])
    assert "DOES NOT MATCH" in capsys.readouterr().out


def test_a_metric_that_a_policy_does_not_compare_is_not_told_to_be_missing(root, capsys):
    run = write_run(root / "run")
    words = [CASE, "--run-dir", str(run), "--policy", "megatron"]
    diff.main([*words, "--check", "exact"])
    assert "the card has no values" not in capsys.readouterr().out
    write_golden(root, card(metrics=["lm loss"]))
    loss_only = write_run(root / "loss only", metrics=["lm loss"])
    assert diff.main([CASE, "--run-dir", str(loss_only)]) == 0
    assert "not compared, the card has no values: " in capsys.readouterr().out


def test_bad_card_is_one_line_on_stderr_and_exit_code_2(tmp_path):
    (tmp_path / "a.json").write_text('{"lm loss"')
    outcome = command("--golden", tmp_path / "a.json", "--actual", tmp_path / "b.json")
    assert outcome.returncode == 2
    assert outcome.stderr.startswith(f"error: {tmp_path / 'a.json'}: line 1, column 11")
    assert outcome.stderr.count("\n") == 1
    assert outcome.stdout == ""


def test_neither_help_nor_a_comparison_imports_what_is_slow():
    slow = {"torch", "matplotlib", "tensorboard", "rich"}
    assert not {*started_anew("modules.imported_by_help", "tasks.diff").answer} & {*slow, "numpy"}
    assert not {*started_anew("modules.imported_with", "tasks.judge", "tasks.report").answer} & slow


@pytest.mark.parametrize(
    ("terminal", "environment", "wanted"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colour_only_on_a_terminal_without_no_color(monkeypatch, terminal, environment, wanted):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(sys, "stdout", type("Out", (), {"isatty": lambda self: terminal})())
    assert diff.colour_wanted() is wanted


@pytest.mark.parametrize(("steps", "code"), [("60-100", 1), ("61-100", 0), ("51-59", 0)])
def test_steps_that_begin_after_the_restart_are_all_compared(root, steps, code):
    def counted(first: int, *, not_at: int | None = None) -> Card:
        counts = {step: 0.0 if step == not_at else 8.0 for step in range(first, 101)}
        return Card(metrics={"overlap-grad-buckets": metric_from(counts, counts.values())})

    write_golden(root, counted(1))
    cards = {"phase1": counted(1), "phase2": counted(51, not_at=60)}
    run = write_run(root / "run", metrics=["overlap-grad-buckets"], **cards)
    assert diff.main([CASE, "--run-dir", str(run), "--steps", steps]) == code
