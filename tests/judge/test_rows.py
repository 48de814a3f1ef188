"""A row's note is made from its reason; whoever explains a verdict reads the reason, not the note."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator

from tasks.judge.explanation import explain
from tasks.judge.rows import Reason, Row
from tasks.util.files import REPOSITORY

DRIFT = Row(comparison="golden", metric="lm loss", check="approximate", verdict="drift")


def calls_with_a_reason() -> Iterator[tuple[Reason, ast.Call]]:
    for path in sorted((REPOSITORY / "tasks" / "judge").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            for argument in call.args if isinstance(call, ast.Call) else ():
                if isinstance(argument, ast.Attribute) and ast.unparse(argument.value) == "Reason":
                    yield Reason[argument.attr], call


def test_who_gives_a_reason_gives_its_details() -> None:
    """Keywords that come out of a mapping are not looked at."""
    calls = list(calls_with_a_reason())
    assert len(calls) > 30
    for reason, call in calls:
        wanted = {name for _, name, _, _ in string.Formatter().parse(reason.value) if name}
        given = {keyword.arg for keyword in call.keywords}
        assert wanted <= given or None in given, f"{reason.name}: {ast.unparse(call)}"


def test_the_note_is_the_sentence_of_the_reason_and_the_remarks() -> None:
    lost = DRIFT.because("regression", Reason.NOT_FINITE, side="actual", step=3, value="nan")
    assert (lost.note, lost.passed) == ("actual value at step 3 is nan", False)
    remarked = Row(**{**vars(DRIFT), "remarks": ("compared at 5 decimals",)})
    assert (remarked.note, remarked.passed) == ("compared at 5 decimals", True)
    short = remarked.because("missing", Reason.STEP_MISSING, step=4, more=" and 2 more")
    assert short.note == "step 4 and 2 more missing in the actual values; compared at 5 decimals"


def test_what_is_not_there_never_passes() -> None:
    row = Row.missing("resume", "all metrics", Reason.NO_PHASE_2, files="phase2.json")
    assert (row.passed, row.note) == (False, "the restart left no phase2.json; run tasks.resume")


def test_the_explanation_reads_reasons_and_no_notes() -> None:
    words = ("actual value at step 3 is nan", "step 3 missing in the actual values", "nothing was loaded")
    worded = Row(**{**vars(DRIFT), "verdict": "regression", "reason": Reason.DIFFERS, "remarks": words})
    assert explain([worded], golden=None, changes=[]) == []
    lost = worded.because("regression", Reason.NOT_FINITE, side="golden", step=7, value="inf")
    (sentence,) = explain([lost], golden=None, changes=[])
    assert sentence.startswith("golden: lm loss: golden value at step 7 is inf")
    nothing = Row.missing("restart", "loaded iteration", Reason.NOTHING_LOADED, what="phase 2")
    assert explain([nothing], golden=None, changes=[]) == [nothing.note]
