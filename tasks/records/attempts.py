"""Attempts of a phase: when a rank fails, the elastic agent starts all ranks again, a new attempt.

An attempt writes its evidence to ``evidence/attempt<N>/``, its TensorBoard events to files with its number
in their name, and a line that marks its begin to each rank's log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from tasks.cases.metrics import LM_LOSS
from tasks.records.card import Card
from tasks.util.exits import TrainingFailed

_BEGINS = re.compile(r"^rank (\d+) attempt (\d+) process (\d+)$", re.MULTILINE)


def rank_log(directory: Path, rank: int) -> Path:
    """The log of one rank, of all its attempts."""
    return directory / f"rank{rank}.log"


def begin_line(rank: int, attempt: int, process_id: int) -> str:
    """The line of a rank's log with which its attempt begins."""
    return f"rank {rank} attempt {attempt} process {process_id}"


def processes(directory: Path) -> dict[int, dict[int, int]]:
    """Process ids by rank, of each attempt that any rank began, in their order."""
    begun: dict[int, dict[int, int]] = {}
    for log in directory.glob("rank*.log"):
        for rank, attempt, process_id in _BEGINS.findall(log.read_text(errors="replace")):
            begun.setdefault(int(attempt), {})[int(rank)] = int(process_id)
    return {attempt: begun[attempt] for attempt in sorted(begun)}


def evidence_folder(directory: Path, attempt: int) -> Path:
    """The folder where ranks of an attempt write their digests and times."""
    return directory / "evidence" / f"attempt{attempt}"


def records(directory: Path, logged: Mapping[int, Card], world_size: int) -> list[dict[str, object]]:
    """One record an attempt: process ids, loaded iteration, logged steps and digests of its ranks.

    Raises:
        TrainingFailed: a rank of the last attempt, which was not ended from outside, recorded less than the
            others.
    """
    begun = processes(directory)
    if not begun:
        raise TrainingFailed(f"{directory}: no rank wrote when it began; see the logs there")
    found = []
    for attempt, process_ids in begun.items():
        whole = attempt == max(begun)
        losses = logged[attempt].metrics.get(LM_LOSS.name) if attempt in logged else None
        found.append(
            {
                "attempt": attempt,
                "processes": {str(rank): process_ids[rank] for rank in sorted(process_ids)},
                "steps": None if losses is None else [int(losses.steps[0]), int(losses.steps[-1])],
                **evidence(evidence_folder(directory, attempt), world_size, whole=whole),
            }
        )
    return found


def evidence(folder: Path, world_size: int, *, whole: bool = True) -> dict[str, object]:
    """The digests and times of an attempt's ranks, gathered.

    ``whole``: the attempt came to its end. A killed attempt may have been killed while it wrote: an
    iteration that not all ranks recorded is skipped, since it proves nothing.

    Raises:
        TrainingFailed: a rank of a whole attempt recorded less than the others.
    """
    state: dict[str, dict[str, object]] = {}
    loaded: set[int] = set()
    seconds: dict[str, float] = {}
    for path in sorted(folder.glob("*_rank*.json")):
        kind, iteration, rank = path.stem.split("_")
        content = json.loads(path.read_text())
        if kind == "seconds":
            seconds = {name: max(value, seconds.get(name, 0.0)) for name, value in content.items()}
            continue
        if kind == "loaded":
            loaded.add(int(iteration))
        state.setdefault(str(int(iteration)), {})[rank.removeprefix("rank")] = content
    for iteration in [iteration for iteration, ranks in state.items() if len(ranks) != world_size]:
        if whole:
            raise TrainingFailed(
                f"{folder}: {len(state[iteration])} of {world_size} ranks recorded iteration {iteration}"
            )
        del state[iteration]
    return {"loaded_iteration": max(loaded, default=None), "state": state, "seconds": seconds}
