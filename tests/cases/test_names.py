"""Names, types and needs of cases, from the text of their files."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tasks.cases import names
from tasks.cases.loader import list_cases, load_case
from tasks.machine import platforms
from tasks.suite import listing
from tasks.util.exits import UsageError
from tasks.util.files import REPOSITORY

TODAY = datetime.date(2026, 11, 24)


def case(root: Path, name: str, text: str) -> str:
    path = root / "test_cases" / name / "model_config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return name


@pytest.mark.parametrize("name", list_cases())
def test_a_type_is_the_one_that_the_case_has(name: str) -> None:
    assert names.type_of(name) == load_case(name, platform_name="cpu_x86_64").test_type


@pytest.mark.parametrize("name", list_cases())
def test_the_golden_case_is_the_one_that_the_case_has(name: str) -> None:
    assert names.golden_case(name) == load_case(name, platform_name="cpu_x86_64").golden_case


def test_words_in_quotes_and_what_is_inherited_count(tmp_path: Path) -> None:
    """An heir of a case that is compared with another's card records none of its own."""
    case(tmp_path, "a", "TEST_TYPE: 'crash-resume'\nGOLDEN_CARD: \"b\"\n")
    case(tmp_path, "a.1", "INHERIT: 'a'\n")
    case(tmp_path, "heir", "INHERIT: a.1\n")
    assert names.type_of("heir", tmp_path) == "crash-resume"
    assert names.golden_case("heir", tmp_path) == "b"
    assert not names.records_cards("heir", tmp_path)


def test_names_are_the_cases() -> None:
    assert names.case_names() == list_cases(REPOSITORY)


def test_a_case_file_that_cannot_be_read_is_a_case_of_the_menu(tmp_path: Path) -> None:
    """A directory in its place, bytes that are no text or a link to nothing end no session: the case is
    listed, and reports its error itself.
    """
    (tmp_path / "test_cases/folder/model_config.yaml").mkdir(parents=True)
    (tmp_path / "test_cases/link").mkdir()
    (tmp_path / "test_cases/link/model_config.yaml").symlink_to("nowhere")
    case(tmp_path, "latin", "")
    (tmp_path / "test_cases/latin/model_config.yaml").write_bytes(b"# \xe9\n")
    listed = names.case_names(tmp_path)
    assert listed == ["folder", "latin", "link"]
    assert len(listing.listing(listed, TODAY, as_json=False, root=tmp_path).splitlines()) == 4
    for name, why in (("folder", "Is a directory"), ("latin", "is not UTF-8"), ("link", "No such file")):
        with pytest.raises(UsageError, match=f"{name}/model_config.yaml: .*{why}"):
            load_case(name, platform_name="cpu_x86_64", root=tmp_path)


def test_a_circle_of_heirs_ends(tmp_path: Path) -> None:
    case(tmp_path, "a", "INHERIT: b\n")
    case(tmp_path, "b", "INHERIT: a\n")
    assert names.type_of("a", tmp_path) == "regular"


def test_the_purpose_is_how_the_first_comment_begins(tmp_path: Path) -> None:
    case(tmp_path, "a", "# Trains a\n# little. And more.\nMODEL_ARGS: {}\n")
    case(tmp_path, "b", "MODEL_ARGS: {}\n# Not this.\n")
    assert names.purpose("a", tmp_path) == "Trains a little"
    assert names.purpose("b", tmp_path) == "One case"


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


def test_only_a_data_set_that_a_value_names_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATA_PATH", raising=False)
    for name, text in (("told", "  # as ${DATA_PATH}, for one\n"), ("used", "  --data-path: ${DATA_PATH}\n")):
        (tmp_path / "test_cases" / name).mkdir(parents=True)
        (tmp_path / "test_cases" / name / "model_config.yaml").write_text(f"MODEL_ARGS:\n{text}")
    assert [names.needs_data(name, tmp_path) for name in ("told", "used")] == [False, True]


def test_an_heir_waits_for_the_data_set_of_its_base_unless_it_names_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its data it would only fail."""
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
