"""The parts of a launch, without a training: start and arguments of a rank, and clean-up."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.launch import agent
from tasks.machine.nodes import Nodes
from tasks.records.checkpoints import TRACKER
from tasks.util.exits import CannotRun
from tasks.util.progress import ProgressBoard
from tests.program import started_anew
from tests.setups import setup_of


def phase_in(run_dir: Path, **changes: object) -> agent.Phase:
    """Phase 1 of a run on eight ranks of the CPU."""
    setup = dataclasses.replace(setup_of("gpt3_pp4"), run_dir=run_dir, **changes)
    return agent.Phase(setup=setup, number=1, argv=(), steps=(1, 4))


def test_the_newest_checkpoint_is_the_one_that_the_tracker_names(tmp_path: Path) -> None:
    phase = phase_in(tmp_path, nodes=Nodes(count=2))
    assert (phase.local_ranks, phase.newest_checkpoint()) == (4, None)
    (tmp_path / "checkpoints").mkdir()
    assert phase.newest_checkpoint() is None
    (tmp_path / "checkpoints" / "iter_0000004").mkdir()
    (tmp_path / "checkpoints" / TRACKER).write_text("2")
    assert phase.newest_checkpoint() == 2, "4 is half-written"


def test_variables_are_in_force_before_anything_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imports(_: object) -> None:
        seen.update(os.environ)
        raise CannotRun("no torch")

    seen: dict[str, str] = {}
    monkeypatch.setattr(agent, "preload", imports)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    cpu = setup_of("gpt3_pp4").platform
    phase = phase_in(tmp_path, platform=dataclasses.replace(cpu, env_vars={"OMP_NUM_THREADS": "1"}))
    with pytest.raises(CannotRun):
        agent.launch(phase)
    assert seen["OMP_NUM_THREADS"] == "1"
    assert seen["GLOO_SOCKET_IFNAME"] == "eth7", "what the user says of the network counts"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    with pytest.raises(CannotRun):
        agent.launch(phase)
    assert seen["GLOO_SOCKET_IFNAME"] == "lo"
    assert list((tmp_path / "phase1").iterdir()) == []


def test_ranks_wait_until_all_of_their_attempt_are_forked() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    board = ProgressBoard(3)
    board.note(0, process_id=os.getpid(), step=0, activity="starting")
    board.note(1, process_id=ended.pid, step=3, activity="logging")  # of the attempt before
    waiting = threading.Thread(target=agent._wait_for_forks, args=(board,), daemon=True)
    waiting.start()
    for rank in (1, 2):
        waiting.join(0.1)
        assert waiting.is_alive()
        board.note(rank, process_id=os.getpid(), step=0, activity="starting")
    waiting.join(10)
    assert not waiting.is_alive()


@pytest.mark.parametrize("code", [0, None, 3])
def test_an_exit_before_the_end_is_no_success(code: int | None) -> None:
    with pytest.raises(RuntimeError, match=rf"ended itself before .*: sys\.exit\({code}\)"):  # noqa: SIM117
        with agent._no_exit_is_success():
            sys.exit(code)
    with agent._no_exit_is_success():
        pass


def test_a_rank_is_reported_what_it_is_and_ends_by_a_stop_or_with_its_parent(tmp_path: Path) -> None:
    ended = started_anew("rank.run_main", str(tmp_path))
    directory = tmp_path / "phase2"
    log = (directory / "rank0.log").read_text()
    assert (ended.exit_code, ended.stdout, ended.stderr) == (1, "", ""), "what it says is in its log"
    assert re.match(r"rank 0 attempt 5 process \d+\n", log), log
    assert "ValueError: enough" in log
    assert json.loads((directory / "found.json").read_text()) == {
        "argv": ["--seed"],
        "evidence": "evidence/attempt5",
        "attempt": 5,
        "plugins": ["probe.py"],
        "of": ["a", "b"],
        "stale note": False,
        "stops": [True, True],
        "ends with its parent by": [signal.SIGKILL, signal.SIGKILL],
        "scheduled": True,
        "note": [50, "starting"],
    }
    assert json.loads((directory / "rank0.failure").read_text())["error"] == "ValueError: enough"


def test_what_was_started_ends_and_what_was_there_before_and_the_daemons_guard_stay() -> None:
    assert started_anew("processes.leave_processes").answer == ["before", "guard"]
