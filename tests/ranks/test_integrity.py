"""The ranks find what only reading the files can find, before they load anything, and act on it."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from tasks.records import manifest
from tasks.records.checkpoints import TRACKER
from tests import short_run
from tests.checkpoint_folder import flip_byte
from tests.pickled import Touch
from tests.program import answer_of


def test_code_in_a_sharded_object_is_not_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    assert "Weights only load failed" in answer_of("integrity.load_with_code", str(trace), True)
    assert not trace.exists()
    assert answer_of("integrity.load_with_code", str(trace), False) == ""
    assert trace.exists()


@pytest.mark.training
def test_what_the_manifest_does_not_vouch_for_is_never_executed(run_dir: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    metadata = run_dir / "checkpoints" / "iter_0000002" / ".metadata"
    code = pickle.dumps(Touch(trace))
    pickle.loads(code)
    trace.unlink()  # it would work
    metadata.write_bytes(code.ljust(metadata.stat().st_size, b"\0"))
    finished = short_run.run("resume", run_dir)
    assert finished.returncode == 2, finished.stdout
    assert f"error: {metadata}: damaged: the content (SHA-256) is not what was saved" in finished.stdout
    assert "Traceback" not in finished.stdout
    assert not trace.exists()
    assert not (run_dir / "phase2.json").exists()


@pytest.mark.training
def test_automatic_resume_falls_back_to_the_checkpoint_before(run_dir: Path) -> None:
    losses = json.loads((run_dir / "actual_phase1.json").read_text())["lm loss"]["values"]
    for path in run_dir.iterdir():
        if path.name not in ("checkpoints", "data_cache"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    checkpoints = run_dir / "checkpoints"
    shard = checkpoints / "iter_0000004" / "__6_0.distcp"
    flip_byte(shard, 50_000)
    interrupted = checkpoints / "iter_0000006"
    interrupted.mkdir()
    (interrupted / "__8_0.distcp").write_text("of a ninth rank")
    finished = short_run.run("train", run_dir, "--set", "exit-interval=6")
    assert finished.returncode == 0, finished.stdout
    record = json.loads((run_dir / "phase1.json").read_text())
    assert record["loaded_iteration"] == 2
    assert record["steps"] == [3, 6]
    incomplete, damaged, last = record["fallbacks"]
    assert incomplete.startswith(f"checkpoint not used: {interrupted}/manifest.json: missing")
    assert damaged.startswith(f"checkpoint not used: {shard}: damaged")
    assert last == "resuming from iteration 2"
    for rank in range(8):
        assert "\n".join(record["fallbacks"]) in (run_dir / "phase1" / f"rank{rank}.log").read_text()
    assert all(f"phase 1: {line}" in finished.stdout for line in record["fallbacks"])
    # The same training as before; and the damaged and the interrupted checkpoint are whole ones now.
    again = json.loads((run_dir / "actual_phase1.json").read_text())["lm loss"]["values"]
    assert {step: again[step] for step in ("3", "4")} == {step: losses[step] for step in ("3", "4")}
    manifest.verify(shard.parent, iteration=4)
    assert "__8_0.distcp" not in manifest.verify(interrupted, iteration=6).files
    assert (checkpoints / TRACKER).read_text() == "6"
