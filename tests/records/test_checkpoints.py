"""Automatic resume takes the newest whole checkpoint, tells why none newer, never begins anew unasked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.records import checkpoints, manifest
from tasks.records.checkpoints import TRACKER, Choice, newest_complete
from tasks.records.manifest import DamagedCheckpoint
from tasks.util.exits import UsageError
from tests.checkpoint_folder import ORIGIN, flip_byte, save, truncate


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Complete checkpoints of the iterations 2, 4 and 10."""
    for iteration in (2, 4, 10):
        save(tmp_path, iteration)
    return tmp_path


def test_the_newest_is_taken_without_a_word(root: Path) -> None:
    assert newest_complete(root, ORIGIN) == Choice(iteration=10)
    assert newest_complete(root, ORIGIN).lines() == []


def test_a_damaged_one_is_passed_over_and_named(root: Path) -> None:
    flip_byte(root / "iter_0000010" / "__2_0.distcp", 500)
    truncate(root / "iter_0000004" / ".metadata", 10)
    choice = newest_complete(root, ORIGIN)
    assert choice.iteration == 2
    first, second, last = choice.lines()
    assert first.startswith(f"checkpoint not used: {root}/iter_0000010/__2_0.distcp: damaged")
    assert second.startswith(f"checkpoint not used: {root}/iter_0000004/.metadata: damaged: 10 bytes")
    assert last == "resuming from iteration 2"


def test_one_of_another_case_is_passed_over(root: Path) -> None:
    save(root, 12, origin=replace(ORIGIN, case="decaf"))
    choice = newest_complete(root, ORIGIN)
    assert choice.iteration == 10
    assert "of another case" in choice.skipped[0]


def test_an_interrupted_save_is_passed_over(root: Path) -> None:
    save(root, 12, to_end=False)
    choice = newest_complete(root, ORIGIN)
    assert choice.iteration == 10
    assert "iter_0000012/manifest.json: missing: the checkpoint is incomplete" in choice.skipped[0]


def test_one_whose_tracker_was_not_written_any_more_is_taken(root: Path) -> None:
    save(root, 12)
    checkpoints.write_tracker(root, 10)
    assert newest_complete(root, ORIGIN) == Choice(iteration=12)


def test_a_tracker_that_names_an_absent_iteration_is_told(root: Path) -> None:
    shutil.rmtree(root / "iter_0000010")
    choice = newest_complete(root, ORIGIN)
    assert choice.iteration == 4
    found = "(found: iter_0000002, iter_0000004)"
    assert choice.skipped == (f"{root}/{TRACKER}: names iteration 10, but iter_0000010 is not there {found}",)


@pytest.mark.parametrize("text", ["", "ten", "-2", "1 0", "9" * 30, "\u0661"])
def test_a_damaged_tracker_is_told_and_not_followed(root: Path, text: str) -> None:
    (root / TRACKER).write_text(text)
    choice = newest_complete(root, ORIGIN)
    assert choice.iteration == 10
    assert choice.skipped == (f"{root}/{TRACKER}: damaged: it names no iteration",)


def test_without_any_checkpoint_training_begins_at_the_beginning(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "absent") == Choice(iteration=None)
    assert newest_complete(tmp_path) == Choice(iteration=None)


def test_a_first_save_that_was_interrupted_means_the_beginning(tmp_path: Path) -> None:
    save(tmp_path, 2, to_end=False)
    choice = newest_complete(tmp_path)
    assert choice.iteration is None
    assert choice.lines()[-1] == "resuming from the beginning"


def test_training_does_not_begin_anew_when_all_are_damaged(root: Path) -> None:
    flip_byte(root / "iter_0000010" / "common.pt")
    (root / "iter_0000004" / manifest.FILE_NAME).unlink()
    shutil.rmtree(root / "iter_0000002")
    with pytest.raises(DamagedCheckpoint, match="no checkpoint is left to resume from") as caught:
        newest_complete(root)
    for path in ("iter_0000010/common.pt: damaged", "iter_0000004/manifest.json: missing"):
        assert f"{root}/{path}" in str(caught.value)


def test_the_only_one_that_is_not_whole_is_lost_if_it_ever_was(tmp_path: Path) -> None:
    """It was, if it has a manifest or the tracker names it."""
    save(tmp_path, 2)
    (tmp_path / "iter_0000002" / manifest.FILE_NAME).rename(tmp_path / "kept")
    with pytest.raises(DamagedCheckpoint, match="no checkpoint is left to resume from"):
        newest_complete(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "iter_0000002" / manifest.FILE_NAME)
    flip_byte(tmp_path / "iter_0000002" / "common.pt")
    (tmp_path / TRACKER).unlink()
    with pytest.raises(DamagedCheckpoint, match="no checkpoint is left to resume from"):
        newest_complete(tmp_path)


def test_training_does_not_begin_anew_when_all_are_lost(root: Path) -> None:
    for folder in root.glob("iter_*"):
        shutil.rmtree(folder)
    with pytest.raises(DamagedCheckpoint, match=r"names iteration 10, .*\(found: none\)"):
        newest_complete(root)


def test_folders_of_other_names_are_none(root: Path) -> None:
    for name in ("iter_2", "iter_00000012", "iter_0000012.old", "release"):
        (root / name).mkdir()
    (root / "iter_0000014").write_text("a file")
    assert checkpoints.list_checkpoints(root).iterations == (10, 4, 2)


def test_an_older_one_may_be_asked_for(root: Path) -> None:
    checkpoints.check(root, 4, ORIGIN)
    (root / TRACKER).unlink()
    with pytest.raises(DamagedCheckpoint, match=f"{TRACKER}: missing"):
        checkpoints.check(root, 4, ORIGIN)


def test_one_of_megatron_lm_is_complete_with_its_metadata(tmp_path: Path) -> None:
    folder = checkpoints.iteration_folder(tmp_path, 4)
    folder.mkdir()
    with pytest.raises(UsageError, match=r"is no complete checkpoint \(no \.metadata\)"):
        checkpoints.check_of_megatron_lm(tmp_path, 4)
    (folder / ".metadata").touch()
    checkpoints.check_of_megatron_lm(tmp_path, 4)


def test_one_that_is_asked_for_must_be_there_whole_and_of_the_case(root: Path) -> None:
    with pytest.raises(DamagedCheckpoint, match=r"no checkpoint of iteration 6 \(found: .*iter_0000010\)"):
        checkpoints.check(root, 6, ORIGIN)
    with pytest.raises(DamagedCheckpoint, match="of another case"):
        checkpoints.check(root, 4, replace(ORIGIN, case="decaf"))
    truncate(root / "iter_0000004" / ".metadata", 10)
    with pytest.raises(DamagedCheckpoint, match="damaged: 10 bytes"):
        checkpoints.check(root, 4, ORIGIN)
    (root / TRACKER).write_text("40")
    with pytest.raises(DamagedCheckpoint, match="names iteration 40"):
        checkpoints.check(root, 2, ORIGIN)
    with pytest.raises(DamagedCheckpoint, match="there is no such folder"):
        checkpoints.check(root / "absent", 2, ORIGIN)
