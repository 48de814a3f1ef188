"""The list of the cases, and the reasons to skip one."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tasks.machine import platforms
from tasks.suite import listing
from tests.stub_checkout import add_case as case

TODAY = datetime.date(2026, 11, 24)


def test_the_type_is_that_of_the_case_it_inherits_from(tmp_path: Path) -> None:
    case(tmp_path, "a", "TEST_TYPE: 'crash-resume'\n")
    case(tmp_path, "heir", "INHERIT: 'a'\n")
    case(tmp_path, "one", "INHERIT: other\n")
    case(tmp_path, "other", "INHERIT: one\n")
    types = [entry["test_type"] for entry in listing.entries(["heir", "one"], TODAY, tmp_path)]
    assert types == ["crash-resume", "regular"], "a circle is reported when the case is run"


def test_a_data_set_that_only_a_comment_names_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATA_PATH", raising=False)
    case(tmp_path, "comment", "MODEL_ARGS:\n  # as ${DATA_PATH}, for one\n  --lr: 1\n")
    case(tmp_path, "overlay", "PLATFORMS: {'gpu*': {MODEL_ARGS: {--data-path: '${DATA_PATH}/x'}}}\n")
    assert listing.reason_to_skip("comment", tmp_path) == ""
    assert listing.reason_to_skip("overlay", tmp_path) == "DATA_PATH is not set"


def test_a_kept_checkpoint_of_a_cpu_is_skipped_on_gpus_by_its_heirs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case(tmp_path, "kept", "TEST_TYPE: frozen-resume\n")
    case(tmp_path, "heir", "INHERIT: kept\n")
    case(tmp_path, "other", "TEST_TYPE: ckpt-resume\n")
    for gpus, expected in ((True, "its checkpoint is one of a CPU"), (False, "")):
        monkeypatch.setattr(platforms, "on_gpus", lambda gpus=gpus: gpus)
        assert listing.reason_to_skip("heir", tmp_path) == expected
        assert listing.reason_to_skip("other", tmp_path) == ""


def test_an_heir_waits_for_the_data_set_of_its_base_unless_it_names_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATA_PATH", raising=False)
    case(tmp_path, "base", "MODEL_ARGS:\n  --data-path: ${DATA_PATH}/text\n")
    case(tmp_path, "heir", "INHERIT: base\nMODEL_ARGS: {--lr: 1}\n")
    case(tmp_path, "own", "INHERIT: base\nMODEL_ARGS: {--data-path: '${CORPUS_PREFIX}'}\n")
    assert listing.reason_to_skip("heir", tmp_path) == "DATA_PATH is not set"
    assert listing.reason_to_skip("own", tmp_path) == ""
    monkeypatch.setenv("DATA_PATH", "/data")
    assert listing.reason_to_skip("heir", tmp_path) == ""


def test_the_list_shows_type_platform_and_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    monkeypatch.delenv("DATA_PATH", raising=False)
    held = "QUARANTINE:\n  OWNER: me\n  REASON: sums\n  UNTIL: {}\n"
    case(tmp_path, "a", "# Does a.\nTEST_TYPE: ckpt-resume\n" + held.format("2026-11-23"))
    case(tmp_path, "b", "# Does b.\nMODEL_ARGS: {--data-path: '${DATA_PATH}'}\n" + held.format("2026-11-24"))
    listed = listing.listing(["a", "b"], TODAY, as_json=False, root=tmp_path).splitlines()
    platform = platforms.detect().name
    expected = f"a ckpt-resume {platform} ended 2026-11-23, me: sums Does a"
    assert listed[1].split() == expected.split()
    expected = "b regular skipped: DATA_PATH is not set until 2026-11-24, me: sums Does b"
    assert listed[2].split() == expected.split()


def test_a_machine_that_can_run_nothing_has_a_list_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> platforms.Platform:
        raise platforms.CannotRun("no AVX2")

    monkeypatch.setattr(platforms, "detect", none)
    (entry,) = listing.entries(["gpt3_pp4"], TODAY)
    assert entry["platform"] is None
    assert "cannot run" in listing.listing(["gpt3_pp4"], TODAY, as_json=False)
