"""The rank plugin that restarts again and again in one process counts, and names where a restart parted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.util.files import REPOSITORY
from tests import short_run

PLUGIN = REPOSITORY / "benchmarks" / "rank_plugins" / "restart_again.py"
LONGER = ("--set", "exit-interval=8", "--set", "save-interval=4")
PARTING = """
import torch
from tasks.ranks.checkpoint import Checkpoints
load, loads = Checkpoints.load, []
def load_something_else(self, iteration):
    consumed = load(self, iteration)
    loads.append(iteration)
    if len(loads) == 3 and self.args.rank == 2:
        with torch.no_grad():
            for parameter in self.chunks[1].parameters():
                parameter.mul_(1.01)
    return consumed
Checkpoints.load = load_something_else
"""


@pytest.mark.training
def test_restarts_are_counted_and_one_that_parts_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parting = tmp_path / "parting.py"
    parting.write_text(PARTING)
    monkeypatch.setenv("RESTARTS", "3")
    run_dir = tmp_path / "run"
    trained = short_run.run("train", run_dir, *LONGER)
    assert trained.returncode == 0, trained.stdout
    plugins = ("--rank-plugin", PLUGIN, "--rank-plugin", parting)
    resumed = short_run.run("resume", run_dir, *LONGER, *plugins)
    assert resumed.returncode == 0, resumed.stdout
    logs = [(run_dir / f"phase2/rank{rank}.log").read_text() for rank in range(8)]
    assert all("3 more restarts of this rank, 1 parted from the first" in log for log in logs)
    first = "restart 2 parted at step 5: pass 5: decoder.layers.0.input_layernorm, and at "
    assert first in logs[2], "its second chunk, first micro-batch"
    values = [(run_dir / f"actual_phase{phase}.json").read_text() for phase in (1, 2)]
    assert all('"8":' in text for text in values)
