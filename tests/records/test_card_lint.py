"""The linter of golden cards: each fault is found, and the cards of this repository have none."""

from __future__ import annotations

import json

import pytest

from tasks.records.card_lint import problems
from tasks.records.card_store import provenance_path, write_card, write_provenance
from tasks.util.files import REPOSITORY
from tests.fake_run import CASE, card, write_golden
from tests.stub_checkout import add_case

PROVENANCE = {
    "case": CASE,
    "environment": "lts",
    "platform": "cpu_x86_64",
    "reason": "test",
    "recorded": "2026-01-01",
    "fingerprint": {"torch": "2.13.0"},
}


@pytest.fixture
def path(tmp_path):
    golden = write_golden(tmp_path)
    write_provenance(golden, PROVENANCE)
    add_case(tmp_path, CASE)
    return golden


def test_cards_of_this_repository_have_no_fault():
    assert len(list((REPOSITORY / "goldens").glob("*/golden_values_*.provenance.json"))) >= 2
    assert problems(REPOSITORY) == []


def test_sound_card(path, tmp_path):
    assert problems(tmp_path) == []


def test_cards_of_the_named_cases_alone(path, tmp_path):
    """Those of a subject, in a folder of their own, are the case's, too."""
    provenance_path(path).unlink()
    assert problems(tmp_path, {"another"}) == []
    assert len(problems(tmp_path, {CASE})) == 1
    path.parent.rename(path.parent.with_name(f"{CASE}@a_subject"))
    assert len(problems(tmp_path, {CASE})) == 1


def lossy(value):
    return card(change=lambda name, step, number: value if (name, step) == ("lm loss", 9) else number)


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (lossy(float("nan")), "'lm loss': step 9 is no finite number"),
        (lossy(None), "'lm loss': has no value for step 9"),
        (card(full_precision=False), 'has more than 5 decimals, but is not marked "value_precision": "full"'),
    ],
)
def test_faults_of_values(path, tmp_path, broken, fault):
    write_card(path, broken)
    write_provenance(path, PROVENANCE)
    assert any(fault in line for line in problems(tmp_path))
    assert all(str(path) in line for line in problems(tmp_path))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"reason": ""}, "provenance without 'reason'"),
        ({"case": "other"}, "of the case 'other'"),
        ({"platform": "dgx_a100"}, "is of 'lts_dgx_a100'"),
        ({"environment": "dev"}, "is of 'dev_cpu_x86_64'"),
        ({"fingerprint": {}}, "no fingerprint"),
    ],
)
def test_faults_of_provenance(path, tmp_path, change, fault):
    write_provenance(path, {**PROVENANCE, **change})
    (line,) = problems(tmp_path)
    assert fault in line


def test_edited_card(path, tmp_path):
    path.write_text(path.read_text() + "\n")
    (line,) = problems(tmp_path)
    assert "was the card edited by hand?" in line


def test_lonely_files(path, tmp_path):
    provenance_path(path).unlink()
    assert "no golden_values_lts_cpu_x86_64.provenance.json" in problems(tmp_path)[0]
    write_provenance(path, PROVENANCE)
    path.unlink()
    assert "its card golden_values_lts_cpu_x86_64.json is missing" in problems(tmp_path)[0]
    (path.parent / "notes.txt").write_text("x")
    assert any("notes.txt" in line for line in problems(tmp_path))


def test_malformed_card_is_a_fault_like_others(path, tmp_path):
    path.write_text(json.dumps([]))
    assert "must be a JSON object" in problems(tmp_path)[0]


def test_cards_whose_case_is_gone_are_told(path, tmp_path):
    """After a case is renamed, nothing compares anything with its card."""
    path.parent.rename(path.parent.with_name(f"{CASE}@a_subject"))
    assert [line for line in problems(tmp_path) if "there is no case" in line] == []
    file = tmp_path / "test_cases" / CASE / "model_config.yaml"
    file.rename(file.with_suffix(".yml"))
    (fault,) = [line for line in problems(tmp_path) if "there is no case" in line]
    assert fault.endswith(f"{CASE}: remove it, or put test_cases/{CASE}/model_config.yaml back")


def test_no_card_is_no_pass(tmp_path):
    (line,) = problems(tmp_path)
    assert line.endswith("goldens: holds no golden card; nothing was checked")
