"""A verdict as text, JSON, JUnit, Markdown: complete, readable without colour, safe to parse."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from tasks.judge.rows import Reason, Row
from tasks.judge.run import Verdict
from tasks.records.fingerprint import FieldChange
from tasks.reports.formats import HEADERS, as_json, as_junit, as_markdown, as_text, cells

EXACT = Row(
    comparison="golden",
    metric="lm loss",
    check="exact",
    steps="1-100",
    golden=1.0,
    actual=1.0,
    abs=0.0,
    rel=0.0,
    ulp=0,
    tolerance=0.0,
    verdict="exact",
)
WORSE = Row(
    comparison="resume",
    metric="num-zeros",
    check="exact",
    steps="51-100",
    first_step=52,
    worst_step=60,
    golden=10.5,
    actual=11.0,
    abs=0.5,
    rel=0.047619,
    ulp=7,
    tolerance=0.0,
    verdict="regression",
    remarks=("a <note> & more",),
)
SHOWN = Row(
    comparison="golden", metric="iteration-time", check="shown", verdict="not judged", remarks=("why",)
)


def verdict(*rows, **fields):
    return Verdict(title="case · lts <x>", policy="strict", rows=list(rows), **fields)


def test_table_has_every_column_and_a_line_a_row():
    lines = as_text(verdict(EXACT, WORSE, SHOWN)).splitlines()
    assert all(header in lines[2] for header in HEADERS)
    line = next(line for line in lines if line.startswith("resume "))
    assert " ".join(line.split()) == "resume num-zeros exact 51-100 52 60 10.5 11 0.5 0.0476 7 0 ✗ regression"


def test_fingerprint_differences_are_listed_before_the_table():
    text = as_text(verdict(EXACT, changes=[FieldChange("torch", "2.13.0", "2.14.1")]))
    assert text.index("fingerprint differs: torch 2.13.0 → 2.14.1") < text.index("comparison")


def test_colour_adds_to_words_and_marks_and_is_off_by_default():
    plain, coloured = as_text(verdict(EXACT, WORSE)), as_text(verdict(EXACT, WORSE), colour=True)
    assert "\x1b" not in plain
    assert "\x1b[1;31m✗ regression\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_verdicts_are_told_apart_without_colour():
    marks = {
        name: cells(dataclasses.replace(EXACT, verdict=name))[-1]
        for name in ("exact", "drift", "improvement", "not judged", "regression", "missing")
    }
    assert len(set(marks.values())) == 6
    assert marks["regression"][0] == marks["missing"][0] != marks["exact"][0]


def test_json_is_standard_and_has_repr_precision():
    value = 10.815481185913086
    row = dataclasses.replace(WORSE, golden="nan", actual=value, abs=None, rel=float("inf"))
    content = json.loads(as_json(verdict(EXACT, row)), parse_constant=pytest.fail)
    assert content["passed"] is False
    assert content["rows"][1]["golden"] == "nan"
    assert content["rows"][1]["actual"] == value
    assert content["rows"][1]["rel"] == "inf"
    assert content["rows"][1]["passed"] is False


def test_json_has_the_reason_of_a_row_and_its_note():
    lost = EXACT.because("regression", Reason.NOT_FINITE, side="actual", step=3, value="nan")
    rows = json.loads(as_json(verdict(lost, EXACT)))["rows"]
    assert [(row["reason"], row["note"], row["passed"]) for row in rows] == [
        ("not_finite", "actual value at step 3 is nan", False),
        (None, "", True),
    ]
    assert not {"details", "remarks", "median_of"} & {*rows[0]}


def test_junit_counts_and_names_what_failed():
    suite = ElementTree.fromstring(as_junit(verdict(EXACT, WORSE, SHOWN, sentences=["one", "two\x00"])))
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
    }
    failed = suite.find("testcase[failure]")
    assert (failed.get("classname"), failed.get("name")) == ("resume", "num-zeros (exact)")
    message = failed.find("failure").get("message")
    assert message == "regression: golden 10.5, actual 11 at step 60, first at step 52; a <note> & more"
    assert failed.find("failure").text == "one\ntwo"
    assert suite.find("testcase/skipped").get("message") == "why"


def test_junit_of_an_input_error_or_of_nothing_is_never_green():
    for bad in (verdict(EXACT, error="no card"), verdict(), verdict(SHOWN)):
        suite = ElementTree.fromstring(as_junit(bad))
        assert int(suite.get("failures")) + int(suite.get("errors")) == 1
        assert int(suite.get("tests")) >= 1
        assert not bad.passed
        assert bad.exit_code != 0


def test_markdown_is_a_github_table_with_the_conclusion():
    text = as_markdown(verdict(EXACT, WORSE, sentences=["likely this"]))
    assert "**DOES NOT MATCH: resume: num-zeros**" in text
    assert "- likely this" in text
    assert re.search(r"^\| resume +\| num-zeros +\| exact", text, re.MULTILINE)


def test_error_is_the_conclusion_only_when_nothing_worse_happened():
    assert "NOT COMPARED: no card" in as_text(verdict(EXACT, error="no card"))
    assert "DOES NOT MATCH" in as_text(verdict(WORSE, error="no card"))
    assert "PASSED: 1 rows judged" in as_text(verdict(EXACT, SHOWN))
