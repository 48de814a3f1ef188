"""Step 2, with real ranks: it restarts, and whatever does not is seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tasks import resume
from tasks.exits import UsageError
from tasks.golden import read_card
from tasks.judge import Options, restart_and_resume_rows
from tasks.run_files import read_run
from tests import short_run

pytestmark = pytest.mark.training


def failed_rows(run_dir: Path) -> set[tuple[str, str]]:
    """Comparison and metric of what failed."""
    rows = restart_and_resume_rows(read_run(run_dir), Options())
    assert {"state: rng", "loaded iteration"} < {row.metric for row in rows}
    return {(row.comparison, row.metric) for row in rows if not row.passed}


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


def test_a_missing_checkpoint_is_told_before_any_rank_starts(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints" / "iter_0000002")
    finished = short_run.run("resume", run_dir)
    assert finished.returncode == 2
    assert "no complete checkpoint of iteration 2 (found: iter_0000004)" in finished.stdout
    shutil.rmtree(run_dir / "checkpoints")
    assert "there is no such folder" in short_run.run("resume", run_dir).stdout


def test_another_case_than_the_one_trained_is_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRASH_TEST_DEVICE", "cpu")
    with pytest.raises(UsageError, match="trained with another case"):
        resume.main([short_run.CASE, "--run-dir", str(run_dir), *short_run.SHORT, "--set", "lr=0.02"])


def test_nothing_to_restart_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run python -m tasks\.train with it first"):
        resume.main([short_run.CASE, "--run-dir", str(tmp_path)])
