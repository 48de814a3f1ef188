"""The main function of a rank, around a program that notes what it finds."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tasks.launch import agent
from tasks.records.manifest import CheckpointIdentity
from tasks.util.progress import ProgressBoard
from tests.programs.processes import end_signal
from tests.setups import setup_of


def _end_signal_of_a_child() -> int:
    reading, writing = os.pipe()
    if os.fork():
        return int(os.read(reading, 9))
    os.write(writing, str(end_signal()).encode())
    os._exit(0)


def _noting(directory: Path) -> Callable[..., None]:
    """A program under test that notes what it was given and finds, and fails."""

    def run(argv: tuple[str, ...], *, board: ProgressBoard, attempt: int, **given: Any) -> None:
        stops = [signal.getsignal(number) == signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)]
        found = {
            "argv": argv,
            "evidence": str(given["evidence"].relative_to(directory)),
            "attempt": attempt,
            "plugins": [str(plugin) for plugin in given["rank_plugins"]],
            "of": [given["identity"].case, given["expected"].case],
            "stale note": (directory / "rank0.failure").exists(),
            "stops": stops,
            "ends with its parent by": [end_signal(), _end_signal_of_a_child()],
            "scheduled": os.sched_getscheduler(0) == os.SCHED_BATCH,
            "note": [board.rows()[0].step, board.rows()[0].activity],
        }
        (directory / "found.json").write_text(json.dumps(found))
        raise ValueError("enough")

    return run


def run_main(folder: str) -> None:
    """Rank 0 of attempt 5: the second restart by the agent, of a phase that has had three attempts before."""
    trainer = SimpleNamespace(program=lambda: _noting(directory))
    setup = dataclasses.replace(
        setup_of("gpt3_pp4_resume", trainer=trainer), run_dir=Path(folder), rank_plugins=(Path("probe.py"),)
    )
    directory = setup.phase_directory(2)
    directory.mkdir()
    (directory / "rank0.failure").write_text("of the attempt before")
    os.environ |= {"RANK": "0", "TORCHELASTIC_RESTART_COUNT": "2"}
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # the agent's
    phase = agent.Phase(
        setup=setup,
        number=2,
        argv=("--seed",),
        steps=(51, 100),
        identity=CheckpointIdentity(case="a", topology=None),
        expected=CheckpointIdentity(case="b", topology=None),
    )
    agent._rank_main(phase, ProgressBoard(1), os.getppid(), 3)
