"""A manifest vouches for every byte of a checkpoint, itself included."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.records import manifest
from tasks.records.manifest import CheckpointIdentity, DamagedCheckpoint, Topology
from tasks.util.files import replace_file
from tests.checkpoint_folder import ORIGIN, flip_byte, save, truncate, write_rank

DAMAGES = 200


NO_FILES = '{"origin": {"case": null, "topology": null}, "iteration": 2, "versions": {}, "files": []}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path, 2)


def refused(folder: Path, expected: CheckpointIdentity = ORIGIN, iteration: int = 2) -> str:
    with pytest.raises(DamagedCheckpoint) as caught:
        manifest.verify(folder, iteration=iteration, expected=expected)
    return str(caught.value)


def test_it_names_every_file_with_size_and_digest_and_nothing_else(folder: Path) -> None:
    written = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != manifest.FILE_NAME}
    assert len(written) == 8 * 2 + 3
    found = manifest.verify(folder, iteration=2, expected=ORIGIN)
    assert {name: (file.size_bytes, file.sha256) for name, file in found.files.items()} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in written.items()
    }
    assert found.origin == ORIGIN
    assert set(found.versions) == {"megatron-core", "torch"}


@pytest.mark.parametrize("kind", ["synthetic", pytest.param("real", marks=pytest.mark.training)])
def test_every_damage_of_a_byte_or_a_length_is_found(
    kind: str, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "real":
        trained = request.getfixturevalue("trained") / "checkpoints" / "iter_0000002"
        folder = Path(shutil.copytree(trained, tmp_path / "real"))
    chance = random.Random(20261124)
    files = sorted(path for path in folder.iterdir())
    damaged = set()
    for number in range(DAMAGES):
        path = chance.choice(files)
        content = path.read_bytes()
        place = chance.randrange(len(content))
        if number % 2:
            truncate(path, place)
        else:
            flip_byte(path, place, chance.randrange(1, 256))
        with pytest.raises(DamagedCheckpoint) as caught:
            manifest.verify(folder, iteration=2)
        assert str(path) in str(caught.value), (number, place)
        path.write_bytes(content)
        damaged.add(path)
    assert damaged == set(files)
    manifest.verify(folder, iteration=2)


def test_what_is_missing_is_named(folder: Path) -> None:
    for name in ("__3_1.distcp", ".metadata"):
        (folder / name).unlink()
    message = refused(folder)
    assert f"{folder}/.metadata, {folder}/__3_1.distcp: missing; put the checkpoint back" in message


def test_without_manifest_it_is_incomplete(tmp_path: Path) -> None:
    folder = save(tmp_path, 2, to_end=False)
    assert f"{folder / manifest.FILE_NAME}: missing: the checkpoint is incomplete" in refused(folder)
    assert "no such checkpoint" in refused(tmp_path / "iter_0000004", iteration=4)


def test_a_shard_lost_before_the_manifest_was_written_is_missed(tmp_path: Path) -> None:
    folder = save(tmp_path, 2, to_end=False)
    (folder / "__5_0.distcp").unlink()
    manifest.complete(folder, iteration=2, origin=ORIGIN)
    assert f"{folder / '__5_0.distcp'}: missing" in refused(folder)


def test_a_shard_changed_before_the_manifest_was_written_is_found(tmp_path: Path) -> None:
    folder = save(tmp_path, 2, to_end=False)
    flip_byte(folder / "__5_0.distcp")
    manifest.complete(folder, iteration=2, origin=ORIGIN)
    assert f"{folder / '__5_0.distcp'}: damaged" in refused(folder)


def test_a_file_that_was_not_saved_with_it_is_refused(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "common.pt").write_bytes(b"what a loader might prefer")
    message = refused(folder)
    assert f"{folder / 'deep/common.pt'}: not part of the checkpoint" in message
    assert "; remove it, or put" in message


@pytest.mark.parametrize("kind", ["link to a folder", "dangling link", "pipe"])
def test_whatever_was_not_saved_with_it_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    if kind == "pipe":
        os.mkfifo(folder / "added")
    else:
        (folder / "added").symlink_to(tmp_path / ("elsewhere" if kind == "link to a folder" else "nowhere"))
    assert f"{folder / 'added'}: not part of the checkpoint" in refused(folder)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            replace(ORIGIN, case="decaf"),
            "the checkpoint is of another case (c0ffee, not decaf); restart it with",
        ),
        (
            replace(ORIGIN, topology=Topology(pipeline_stages=2, virtual_stages=1, replicas=4)),
            "the checkpoint was saved by pp4 x vp3 x dp2, this run is pp2 x vp1 x dp4; restart it with",
        ),
    ],
)
def test_one_of_something_else_is_refused_unless_that_is_waived(
    folder: Path, expected: CheckpointIdentity, message: str
) -> None:
    assert message in refused(folder, expected)
    waived = CheckpointIdentity(
        case=expected.case if expected.case == ORIGIN.case else None,
        topology=expected.topology if expected.topology == ORIGIN.topology else None,
    )
    manifest.verify(folder, iteration=2, expected=waived)


def test_one_that_does_not_say_what_it_is_of_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, 2, origin=manifest.ANY_IDENTITY)
    assert "was saved by None, this run is pp4 x vp3 x dp2" in refused(folder)
    assert "is of another case (None, not c0ffee)" in refused(folder, replace(ORIGIN, topology=None))
    manifest.verify(folder, iteration=2)


def test_a_renamed_folder_is_refused(folder: Path) -> None:
    renamed = folder.rename(folder.with_name("iter_0000004"))
    assert "this is the checkpoint of iteration 2, not 4" in refused(renamed, iteration=4)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", NO_FILES, "[" * 100_000, '{"origin": 3}', '"\\ud800"']
)
def test_what_is_no_manifest_is_damaged(folder: Path, text: str) -> None:
    (folder / manifest.FILE_NAME).write_text(text)
    assert f"{folder / manifest.FILE_NAME}: damaged" in refused(folder)


def test_a_manifest_changed_by_hand_is_damaged(folder: Path) -> None:
    path = folder / manifest.FILE_NAME
    original = path.read_text()
    for before, after in (("c0ffee", "decade"), (' "iteration": 2', ' "iteration":  2')):
        path.write_text(original.replace(before, after))
        assert path.read_text() != original
        assert f"{path}: damaged" in refused(folder)
    content = json.loads(original)
    content["files"]["../elsewhere"] = content["files"].pop("common.pt")
    path.write_text(json.dumps(content, indent=1))
    assert f"{path}: damaged" in refused(folder)


def test_the_ranks_share_the_files_equally(folder: Path) -> None:
    found = manifest.read(folder)
    shares = [manifest.share(found, rank, 8) for rank in range(8)]
    assert sorted(name for share in shares for name in share) == sorted(found.files)
    assert {len(share) for share in shares} == {2, 3}
    sizes = [found.files[name].size_bytes for name in manifest.share(found, 0, 1)]
    assert sizes == sorted(sizes, reverse=True), "else the shares are equal in number alone"


def test_a_rank_notes_its_own_files_and_no_others_that_are_still_written(tmp_path: Path) -> None:
    (tmp_path / "__10_0.distcp").write_bytes(b"half of ")
    manifest.write_and_note(lambda: write_rank(tmp_path, 1), tmp_path, 1)
    (tmp_path / "__10_0.distcp").write_bytes(b"half of it and the rest")
    found = manifest.complete(tmp_path, iteration=2, origin=ORIGIN)
    assert found.files["__10_0.distcp"].size_bytes == 23
    manifest.verify(tmp_path, iteration=2)


def test_a_file_that_cannot_be_read_is_not_unchanged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = manifest.read(folder)

    def unreadable(_: Path) -> manifest.File:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(manifest, "describe", unreadable)
    assert not manifest.is_unchanged(folder, found, "common.pt")


def test_a_file_that_is_replaced_is_never_seen_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tracker"
    path.write_text("2")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_file(path, "4")
    assert path.read_text() == "2"


def test_what_the_writer_raises_is_raised_and_nothing_is_noted(tmp_path: Path) -> None:
    def failing() -> None:
        write_rank(tmp_path, 0)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        manifest.write_and_note(failing, tmp_path, 0)
    assert {path.suffix for path in tmp_path.iterdir()} == {".distcp"}
