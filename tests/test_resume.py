"""Step 2, with real ranks: it restarts, and whatever does not is seen."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tasks import resume
from tasks.launch import phase
from tasks.records import manifest
from tasks.records.card_store import read_card
from tasks.records.checkpoints import TRACKER
from tasks.util.exits import UsageError
from tests import short_run
from tests.checkpoint_folder import flip_byte, truncate
from tests.rows import failed_rows

pytestmark = pytest.mark.training


def restart_with(run_dir: Path, code: str) -> set[tuple[str, str]]:
    plugin = run_dir.parent / "plugin.py"
    plugin.write_text(code)
    finished = short_run.run("resume", run_dir, "--rank-plugin", plugin)
    assert finished.returncode == 0, finished.stdout
    return failed_rows(run_dir)


def test_a_restart_is_bit_exact_and_leaves_phase_1_as_it_was(run_dir: Path) -> None:
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    finished = short_run.run("resume", run_dir)
    assert finished.returncode == 0, finished.stdout
    first, second = (read_card(run_dir / f"actual_phase{number}.json").metrics for number in (1, 2))
    for name in ("lm loss", "grad-norm", "num-zeros", "params-norm", "learning-rate"):
        assert second[name].steps.tolist() == [3, 4]
        assert second[name].values.tolist() == first[name].values.tolist()[2:], name
    record = json.loads((run_dir / "phase2.json").read_text())
    assert record["loaded_iteration"] == 2
    assert record["state"]["4"] == json.loads((run_dir / "phase1.json").read_text())["state"]["4"]
    assert not failed_rows(run_dir)
    assert {path: path.read_bytes() for path in before} == before


def test_random_states_that_are_not_restored_are_seen(run_dir: Path) -> None:
    failed = restart_with(
        run_dir,
        "from tasks.ranks import checkpoint\ncheckpoint.restore_random_states = lambda states: None\n",
    )
    assert ("restart", "state: rng") in failed
    assert ("resume", "lm loss") in failed


def test_training_again_from_scratch_is_no_restart(run_dir: Path) -> None:
    failed = restart_with(
        run_dir, "from tasks.ranks import pretrain\npretrain.Trainer.load = pretrain.Trainer.begin\n"
    )
    assert ("restart", "loaded iteration") in failed


def test_a_missing_checkpoint_is_reported_before_any_rank_starts(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints" / "iter_0000002")
    finished = short_run.run("resume", run_dir)
    assert finished.returncode == 2
    assert "no checkpoint of iteration 2 (found: iter_0000004); put the checkpoint back" in finished.stdout
    assert not (run_dir / "phase2").exists()


def _manifest_of(folder: Path, **changes: object) -> None:
    origin = manifest.read(folder).origin
    (folder / manifest.FILE_NAME).unlink()
    manifest.complete(folder, iteration=2, origin=dataclasses.replace(origin, **changes))


DAMAGES = {
    "truncated shard": (
        lambda folder: truncate(folder / "__3_0.distcp", 100),
        r"iter_0000002/__3_0\.distcp: damaged: 100 bytes",
    ),
    "missing shard": (
        lambda folder: (folder / "__0_0.distcp").unlink(),
        r"iter_0000002/__0_0\.distcp: missing",
    ),
    "missing metadata": (lambda folder: (folder / ".metadata").unlink(), r"iter_0000002/\.metadata: missing"),
    "missing manifest": (
        lambda folder: (folder / manifest.FILE_NAME).unlink(),
        r"iter_0000002/manifest\.json: missing: the checkpoint is incomplete",
    ),
    "damaged manifest": (
        lambda folder: flip_byte(folder / manifest.FILE_NAME, 200),
        r"iter_0000002/manifest\.json: damaged",
    ),
    "another file": (
        lambda folder: (folder / "__9_0.distcp").write_bytes(b""),
        r"__9_0\.distcp: not part of the checkpoint when it was saved; remove it",
    ),
    "another case": (
        lambda folder: _manifest_of(folder, case="0" * 64),
        r"manifest\.json: the checkpoint is of another case \(000000000000, not [0-9a-f]{12}\); restart it",
    ),
    "another topology": (
        lambda folder: _manifest_of(
            folder, topology=manifest.Topology(pipeline_stages=2, virtual_stages=1, replicas=4)
        ),
        "was saved by pp2 x vp1 x dp4, this run is pp4 x vp3 x dp2; restart it",
    ),
    "another iteration": (
        lambda folder: shutil.copytree(folder.with_name("iter_0000004"), shutil.rmtree(folder) or folder),
        "this is the checkpoint of iteration 4, not 2",
    ),
    "absent iteration tracked": (
        lambda folder: (folder.parent / TRACKER).write_text("40"),
        f"{TRACKER}: names iteration 40, but iter_0000040 is not there",
    ),
    "damaged tracker": (
        lambda folder: flip_byte(folder.parent / TRACKER, 0, 64),
        f"{TRACKER}: damaged: it names no iteration",
    ),
    "missing tracker": (lambda folder: (folder.parent / TRACKER).unlink(), f"{TRACKER}: missing"),
    "no folder": (lambda folder: shutil.rmtree(folder.parent), "checkpoints: there is no such folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_reported_before_any_rank_starts(
    damage: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    monkeypatch.setattr(phase, "run_phase", lambda *_, **__: pytest.fail("ranks were started"))
    inflict, message = DAMAGES[damage]
    inflict(run_dir / "checkpoints" / "iter_0000002")
    with pytest.raises(UsageError, match=message) as caught:
        resume.main([short_run.CASE, "--run-dir", str(run_dir), *short_run.SHORT])
    assert caught.value.exit_code == 2
    assert "; " in str(caught.value)


def test_another_case_than_the_one_trained_is_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    with pytest.raises(UsageError, match="trained with another case"):
        resume.main([short_run.CASE, "--run-dir", str(run_dir), *short_run.SHORT, "--set", "lr=0.02"])


def test_a_run_that_was_trained_elsewhere_is_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    content = json.loads((run_dir / "case.json").read_text())
    content["fingerprint"] |= {"torch": "1.0.0", "commit": "f" * 40, "cpu": "another"}
    (run_dir / "case.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"trained elsewhere \(torch 1\.0\.0 → \S+\): train again here$"):
        resume.main([short_run.CASE, "--run-dir", str(run_dir), *short_run.SHORT])


def test_nothing_to_restart_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run python -m tasks\.train with it first"):
        resume.main([short_run.CASE, "--run-dir", str(tmp_path)])
