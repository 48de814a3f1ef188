"""Kept checkpoints: found and refused, made from a run, and a run that goes on from one judged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks import frozen
from tasks.cases.loader import load_case
from tasks.cases.names import case_names
from tasks.judge.run import judge_run
from tasks.records import kept_checkpoint, manifest
from tasks.records.checkpoints import TRACKER
from tasks.util.exits import CannotRun, UsageError
from tasks.util.files import read_json_object
from tests.fake_run import CASE, FINGERPRINT, SAVED, card, state, write_golden, write_json, write_run

FROZEN = "gpt3_pp4_frozen_resume"
KEPT = load_case(FROZEN, platform_name="cpu_x86_64")


def trained(tmp_path: Path) -> Path:
    """A run from its first iteration that saved a checkpoint half-way, and one at its end."""
    run = write_run(tmp_path / "made", test_type=kept_checkpoint.TYPE)
    for iteration in (SAVED, 100):
        folder = run / "checkpoints" / f"iter_{iteration:07d}"
        folder.mkdir(parents=True)
        (folder / ".metadata").write_text("layout")
        (folder / "__0_0.distcp").write_text("tensors")
        manifest.complete(folder, iteration=iteration, origin=manifest.ANY_IDENTITY)
    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a kept checkpoint of the case."""
    run = trained(tmp_path)
    content = read_json_object(run / "case.json")
    content["fingerprint"]["case"] = KEPT.digest
    write_json(run / "case.json", content)
    kept_checkpoint.keep(run, kept_checkpoint.folder_of(KEPT, tmp_path / "root"), "test")
    return tmp_path / "root"


def gone_on(tmp_path: Path, root: Path, *, after: object = None, **changes: object) -> Path:
    """A run that went on from the kept checkpoint."""
    run = write_run(tmp_path / "run", test_type=kept_checkpoint.TYPE, **{"phase1": card(51, 100), **changes})
    record = {"phase": 1, "steps": [51, 100], "loaded_iteration": SAVED, "restarts": 0}
    record["state"] = {str(SAVED): state()}
    write_json(run / "phase1.json", record | (after or {}))
    kept_checkpoint.take_along(kept_checkpoint.folder_of(KEPT, root), run)
    return run


def verdict_of(run: Path, tmp_path: Path):
    write_golden(tmp_path / "cards", card(51, 100))
    return judge_run(run, root=tmp_path / "cards")


def failed(verdict) -> set[tuple[str, str]]:
    return {(row.comparison, row.metric) for row in verdict.rows if not row.passed}


def test_what_is_kept_is_one_checkpoint_with_its_origin_and_no_path(root: Path) -> None:
    folder = kept_checkpoint.folder_of(KEPT, root)
    assert kept_checkpoint.iteration_of(folder) == SAVED
    assert sorted(path.name for path in folder.iterdir()) == [
        f"iter_{SAVED:07d}",
        TRACKER,
        kept_checkpoint.PROVENANCE,
        kept_checkpoint.RECORD,
        kept_checkpoint.VALUES,
    ]
    assert list(read_json_object(folder / kept_checkpoint.RECORD)["state"]) == [str(SAVED)]
    for name in (kept_checkpoint.PROVENANCE, kept_checkpoint.RECORD, kept_checkpoint.VALUES):
        assert str(root.parent) not in (folder / name).read_text()
    assert kept_checkpoint.check(KEPT, "cpu_aarch64", root) == folder


def test_the_checkpoint_of_another_device_or_configuration_is_refused(root: Path) -> None:
    with pytest.raises(CannotRun, match="made on cpu_x86_64, cannot go on on gpu1_h100"):
        kept_checkpoint.check(KEPT, "gpu1_h100", root)
    other = load_case(FROZEN, platform_name="cpu_x86_64", overrides={"lr": "0.02"})
    with pytest.raises(UsageError, match="made by another configuration"):
        kept_checkpoint.check(other, "cpu_x86_64", root)


def test_a_checkpoint_that_is_missing_or_not_whole_is_reported(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no kept checkpoint"):
        kept_checkpoint.check(KEPT, "cpu_x86_64", tmp_path)
    (kept_checkpoint.folder_of(KEPT, root) / f"iter_{SAVED:07d}" / ".metadata").unlink()
    with pytest.raises(manifest.DamagedCheckpoint, match=r"\.metadata"):
        kept_checkpoint.check(KEPT, "cpu_x86_64", root)


@pytest.mark.parametrize("content", [b"\xff", "²".encode(), b"", b"-1"])
def test_a_tracker_that_names_no_iteration_is_reported(root: Path, content: bytes) -> None:
    (kept_checkpoint.folder_of(KEPT, root) / TRACKER).write_bytes(content)
    with pytest.raises(UsageError, match="holds no kept checkpoint"):
        kept_checkpoint.check(KEPT, "cpu_x86_64", root)


@pytest.mark.parametrize("name", [kept_checkpoint.RECORD, kept_checkpoint.VALUES, kept_checkpoint.PROVENANCE])
def test_what_a_run_is_to_take_along_is_there_before_it_begins(root: Path, name: str) -> None:
    (kept_checkpoint.folder_of(KEPT, root) / name).unlink()
    with pytest.raises(UsageError, match=name):
        kept_checkpoint.check(KEPT, "cpu_x86_64", root)


def test_only_a_whole_training_of_moderate_size_is_kept(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no training from the first iteration"):
        kept_checkpoint.keep(gone_on(tmp_path, root), tmp_path / "kept", "test")
    run = tmp_path / "made"
    monkeypatch.setattr(kept_checkpoint, "LARGEST_BYTES", 3)
    with pytest.raises(UsageError, match="at most"):
        kept_checkpoint.keep(run, tmp_path / "kept", "test")
    record = read_json_object(run / "phase1.json")
    write_json(run / "phase1.json", record | {"state": {"25": state(), **record["state"]}})
    with pytest.raises(UsageError, match="saved 2 checkpoints before its end"):
        kept_checkpoint.keep(run, tmp_path / "kept", "test")
    with pytest.raises(UsageError, match=f"holds a run of {CASE}"):
        frozen.main([FROZEN, "--from-run", str(run), "--reason", "test"])
    assert not (tmp_path / "kept").exists()


def test_what_is_kept_anew_is_whole_and_takes_the_place_of_the_one_before(root: Path, tmp_path: Path) -> None:
    folder, run = kept_checkpoint.folder_of(KEPT, root), tmp_path / "made"
    (folder / "iter_0000025").mkdir()
    kept_checkpoint.keep(run, folder, "again")
    assert not (folder / "iter_0000025").exists()
    assert read_json_object(folder / kept_checkpoint.PROVENANCE)["reason"] == "again"
    (run / "checkpoints" / f"iter_{SAVED:07d}" / "__0_0.distcp").write_text("TENSORS")
    with pytest.raises(manifest.DamagedCheckpoint, match=r"__0_0\.distcp"):
        kept_checkpoint.keep(run, folder, "damaged")
    assert read_json_object(folder / kept_checkpoint.PROVENANCE)["reason"] == "again"


def test_a_kill_on_the_way_leaves_what_was_kept_before(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    folder, run = kept_checkpoint.folder_of(KEPT, root), tmp_path / "made"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(kept_checkpoint, "write_card", killed)
        with pytest.raises(KeyboardInterrupt):
            kept_checkpoint.keep(run, folder, "again")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    kept_checkpoint.keep(run, folder, "again")
    assert read_json_object(folder / kept_checkpoint.PROVENANCE)["reason"] == "again"
    assert list(folder.parent.iterdir()) == [folder]


def test_only_for_a_case_that_goes_on_from_one_a_checkpoint_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path)
    monkeypatch.setattr(kept_checkpoint, "keep", lambda *_: pytest.fail("it was kept"))
    with pytest.raises(UsageError, match="frozen-resume is wanted"):
        frozen.main([CASE, "--from-run", str(run), "--reason", "test"])


def test_a_run_that_goes_on_is_compared_with_the_one_that_made_the_checkpoint(
    tmp_path: Path, root: Path
) -> None:
    verdict = verdict_of(gone_on(tmp_path, root), tmp_path)
    assert failed(verdict) == set()
    kinds = {(row.comparison, row.metric): row.verdict for row in verdict.rows}
    assert kinds["resume", "lm loss"] == "exact"
    assert kinds["resume", "mem-allocated-bytes"] == "not judged"
    assert kinds["restart", "state: master weights"] == "exact"


def one_ulp_more(metric: str, step: int, value: float) -> float:
    return value * (1 + 2**-23) if (metric, step) == ("lm loss", 60) else value


@pytest.mark.parametrize(("environment", "passed"), [("lts", False), ("dev", True)])
def test_another_environment_may_round_otherwise_the_same_one_may_not(
    tmp_path: Path, root: Path, environment: str, passed: bool
) -> None:
    fingerprint = {**FINGERPRINT, "case": KEPT.digest, "environment": environment}
    changed = card(51, 100, change=one_ulp_more)
    run = gone_on(tmp_path, root, phase1=changed, fingerprint=fingerprint)
    assert (("resume", "lm loss") not in failed(verdict_of(run, tmp_path))) is passed


def test_state_that_is_not_what_was_saved_fails(tmp_path: Path, root: Path) -> None:
    run = gone_on(tmp_path, root, after={"state": {str(SAVED): state(exp_avg="f" * 64)}})
    assert failed(verdict_of(run, tmp_path)) == {("restart", "state: exp avg")}


@pytest.mark.parametrize("what", ["trained from the start", "no origin"])
def test_a_run_that_did_not_go_on_fails(tmp_path: Path, root: Path, what: str) -> None:
    run = gone_on(tmp_path, root, after={"loaded_iteration": None} if what != "no origin" else {})
    if what == "no origin":
        shutil.rmtree(run / kept_checkpoint.IN_RUN)
    assert ("resume", "all metrics") in failed(verdict_of(run, tmp_path))


@pytest.mark.parametrize("name", [name for name in case_names() if "frozen" in name])
def test_every_kept_checkpoint_of_the_repository_belongs_to_its_case(name: str) -> None:
    case = load_case(name, platform_name="cpu_x86_64")
    folder = kept_checkpoint.check(case, "cpu_x86_64")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 4 * 2**20
    record = read_json_object(folder / kept_checkpoint.RECORD)
    iteration = str(kept_checkpoint.iteration_of(folder))
    assert sorted(record["state"][iteration]) == [str(rank) for rank in range(8)]
