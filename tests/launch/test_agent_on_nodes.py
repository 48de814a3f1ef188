"""Two agents with four ranks each on one machine, as two machines would be: the same bits, one verdict."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tasks.records.card_store import read_card
from tasks.util.files import REPOSITORY
from tests import checkout, short_run
from tests.rows import failed_rows

pytestmark = pytest.mark.training

# srun as far as the batch file uses it: a task on each of two nodes, their output labelled, the highest code.
SRUN = """#!/bin/bash
for option in --ntasks-per-node=1 --kill-on-bad-exit=0 --label; do
    [ "$1" = "$option" ] || { echo "srun: unexpected $1" >&2; exit 9; }
    shift
done
export SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=127.0.0.[1,1]
for node in 0 1; do
    SLURM_NODEID=$node SLURM_PROCID=$node "$@" > >(sed -u "s/^/$node: /") 2>&1 &
    tasks[node]=$!
done
highest=0
for node in 0 1; do
    wait "${tasks[node]}"; code=$?
    echo "node $node exits $code"
    [ "$code" -gt "$highest" ] && highest=$code
done
exit $highest
"""
# Node 1 stands still in its fourth step, after the checkpoint of the second is complete.
STANDS_STILL = """
import os, time
from pathlib import Path
from tasks.ranks import pretrain
step = pretrain.Trainer.step
def stands_still(self):
    if self.iteration == 3:
        self.checkpoints.finish_saves(blocking=True)
        if os.environ.get("STANDS_STILL"):
            Path(os.environ["STANDS_STILL"]).touch()
            time.sleep(3600)
    step(self)
pretrain.Trainer.step = stands_still
"""


def losses(run_dir: Path, phase: int = 1) -> list[float]:
    return read_card(run_dir / f"actual_phase{phase}.json").metrics["lm loss"].values.tolist()


def test_a_slurm_job_trains_on_both_nodes_and_prints_one_verdict(tmp_path: Path, trained: Path) -> None:
    folder = checkout.copy_to(tmp_path / "checkout")
    job = str(os.getpid())  # gives the port, too
    outcome = checkout.run_script(
        f"bash slurm/two_nodes.sbatch {short_run.CASE} {' '.join(short_run.SHORT)}",
        cwd=folder,
        path=checkout.programs(tmp_path / "bin", nox=checkout.REAL_NOX, srun=SRUN),
        RUN_TASKS="yes",
        SLURM_JOB_ID=job,
    )
    # Four of the card's hundred steps: it does not match, and both nodes say so with one exit code.
    assert outcome.returncode == 1, outcome.stdout
    assert {"node 0 exits 1", "node 1 exits 1"} <= set(outcome.stdout.splitlines())
    assert re.findall(r"^(\d): DOES NOT MATCH", outcome.stdout, re.MULTILINE) == ["0"]
    assert "1: node 0 judged the run" in outcome.stdout
    run_dir = folder / "runs" / short_run.CASE / f"slurm-{job}"
    assert losses(run_dir) == losses(trained)
    assert losses(run_dir, phase=2) == losses(trained)[2:]
    assert not failed_rows(run_dir)
    assert json.loads((run_dir / "case.json").read_text())["fingerprint"]["nodes"] == "2"
    agents = [agent_of(run_dir / f"phase1/rank{rank}.log") for rank in range(8)]
    assert len(set(agents[:4])) == len(set(agents[4:])) == 1
    assert agents[0] != agents[4]


def agent_of(log: Path) -> str:
    """The process of the node's agent, from the line that a rank begins its log with."""
    return re.search(r"^on \S+, agent (\d+)$", log.read_text(), re.MULTILINE)[1]


def test_a_node_that_is_killed_and_started_again_joins_and_changes_nothing(
    tmp_path: Path, trained: Path
) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(STANDS_STILL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = ("--nnodes", 2, "--rdzv-endpoint", f"127.0.0.1:{port}", "--max-restarts", 1)
    options = (*together, "--rank-plugin", plugin)
    run_dir, still = tmp_path / "run", tmp_path / "still"

    def node(rank: int, **variables: str) -> subprocess.Popen:
        return subprocess.Popen(
            short_run.command("train", run_dir, *options, "--node-rank", rank),
            cwd=REPOSITORY,
            env={**os.environ, "CRASH_TEST_DEVICE": "cpu", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    first, killed = node(0), node(1, STANDS_STILL=str(still))
    deadline = time.monotonic() + 120
    while not still.exists() and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.1)
    killed.kill()
    assert killed.communicate()[0].count("step ") >= 1
    again = node(1)
    for process in (first, again):
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    assert losses(run_dir) == losses(trained)
    record = json.loads((run_dir / "phase1.json").read_text())
    assert record["restarts"] == 1
    assert record["state"]["4"] == json.loads((trained / "phase1.json").read_text())["state"]["4"]
