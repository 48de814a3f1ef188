"""Differences between two fingerprints that excuse a small difference of values, and others that never do."""

from __future__ import annotations

import pytest

from tasks.judge.comparability import basis, configuration_rows, phases_row
from tasks.records.fingerprint import changes
from tests.fake_run import FINGERPRINT


@pytest.mark.parametrize(
    ("field", "value", "check"),
    [
        ("torch", "2.12.0", "approximate"),
        ("torch", "2.12.0+cpu", "approximate"),
        ("environment", "dev", "approximate"),
        ("gpu", "1 x NVIDIA H100", "approximate"),
        ("driver", "580.1", "approximate"),
        ("transformer-engine", "2.20.2", "approximate"),  # a package that only one side has
        ("megatron-core", "0.19.2rc1+abc", "approximate"),
        ("cpu", "Intel Xeon", "exact"),
        ("python", "3.11.2", "exact"),
        ("torch", f"{FINGERPRINT['torch']}+cpu", "exact"),
        ("nvidia-cudnn-cu13", "9.20.0.48", "exact"),
        ("commit", "d" * 40, "exact"),
        ("rank plugins", "f" * 64, "exact"),  # an unknown field excuses nothing
        ("case", "f" * 64, "exact"),
        ("corpus", "f" * 64, "exact"),
    ],
)
def test_what_excuses_a_difference(field, value, check):
    assert basis({**FINGERPRINT, field: value}, FINGERPRINT).check == check
    assert basis(FINGERPRINT, {**FINGERPRINT, field: value}).check == check


@pytest.mark.parametrize(
    ("field", "value"), [("python", "3.11.2"), ("torch", "2.13.0+cu126"), ("nvidia-cudnn-cu13", "9.20.0.48")]
)
def test_what_has_no_influence_on_a_cpu_excuses_a_difference_on_a_gpu(field, value):
    gpu = {**FINGERPRINT, "platform": "gpu1_h100"}
    assert basis(gpu, {**gpu, field: value}).check == "approximate"
    (change,) = changes(gpu, {**gpu, field: value})
    assert change.influence


def test_new_versions_do_not_excuse_another_configuration():
    other = {**FINGERPRINT, "torch": "2.12.0", "case": "f" * 64}
    assert basis(other, FINGERPRINT).check == "exact"
    (row,) = configuration_rows(other, FINGERPRINT)
    assert (row.passed, row.metric) == (False, "digest: case")


def test_reason_lists_the_fields():
    other = {**FINGERPRINT, "torch": "2.12.0", "numpy": "2.0.1", "python": "3.10.1"}
    expected = f"numpy 2.0.1 → (none), torch 2.12.0 → {FINGERPRINT['torch']}"
    assert basis(other, FINGERPRINT).reason == expected


@pytest.mark.parametrize(("golden", "actual"), [(None, FINGERPRINT), ({}, FINGERPRINT), (FINGERPRINT, {})])
def test_unknown_fingerprint_demotes_rounded_cards_only(golden, actual):
    assert basis(golden, actual, full_precision=True).check == "exact"
    assert basis(golden, actual, full_precision=False).check == "approximate"


def test_generic_card_and_run_without_determinism():
    assert basis(FINGERPRINT, FINGERPRINT, generic=True).check == "approximate"
    assert "deterministic" in basis(FINGERPRINT, FINGERPRINT, deterministic=False).reason


def test_changes_with_influence_come_first():
    other = {**FINGERPRINT, "torch": "2.12.0", "commit": "d" * 40, "nccl": "2.31"}
    assert [str(change) for change in changes(other, FINGERPRINT)] == [
        "nccl 2.31 → (none)",
        "torch 2.12.0 → 2.13.0",
        f"commit {'d' * 12}… → {'c' * 12}…",
    ]
    assert changes(FINGERPRINT, FINGERPRINT) == []


def test_only_the_same_processor_is_known_to_be_the_same():
    assert basis(FINGERPRINT, FINGERPRINT).same_processor
    assert not basis({**FINGERPRINT, "cpu": "Intel Xeon"}, FINGERPRINT).same_processor
    assert not basis(None, FINGERPRINT).same_processor


def test_a_commit_with_changes_is_told_from_the_commit():
    commit = "5c88fced" * 5
    (change,) = changes({"commit": commit}, {"commit": f"{commit}-dirty"})
    assert str(change) == "commit 5c88fced5c88… → 5c88fced5c88…-dirty"


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({"commit": "d" * 40, "cpu": "another"}, "exact"),
        ({"torch": "2.0.0"}, "regression"),
        ({"corpus": "e" * 64}, "regression"),
        ({"case": "e" * 64}, "regression"),
        (None, "missing"),
    ],
)
@pytest.mark.parametrize("phase", [1, 2])
def test_all_phases_of_a_run_have_the_same_environment(facts, verdict, phase):
    phases = [FINGERPRINT, FINGERPRINT]
    phases[phase - 1] = facts and {**FINGERPRINT, **facts}
    row = phases_row(FINGERPRINT, phases, other_layout=False)
    assert (row.verdict, row.passed) == (verdict, verdict == "exact")


def test_a_restart_on_another_layout_has_flags_and_ranks_of_its_own():
    restarted = {**FINGERPRINT, "case": "e" * 64, "ranks per gpu": "4"}
    assert phases_row(FINGERPRINT, [FINGERPRINT, restarted], other_layout=True).passed
    assert not phases_row(FINGERPRINT, [FINGERPRINT, restarted], other_layout=False).passed


@pytest.mark.parametrize("field", ["case", "corpus"])
def test_a_card_that_does_not_say_what_it_is_of_proves_nothing(field):
    without = {name: value for name, value in FINGERPRINT.items() if name != field}
    (row,) = configuration_rows(without, FINGERPRINT)
    assert (row.metric, row.passed) == (f"digest: {field}", False)
    assert row.note.startswith("the card does not say for which")
