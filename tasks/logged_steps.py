"""Whether a run logged every step that it trained.

A golden card may be sparse, a run never is: a hole in it is a value that nobody saw, and a comparison of what
is left would pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from tasks.case import last_iteration
from tasks.restart import loaded_iteration
from tasks.run_files import Run
from tasks.tolerances import RESTART
from tasks.verdict import CHECK_EQUAL, MISSING, Row

LOG_INTERVAL_OF_MEGATRON_LM = 100  # its default


def unlogged_rows(run: Run, steps: tuple[int, int] | None = None) -> list[Row]:
    """A failing row for each metric of the case of which a phase lacks a step, of those from the first to the
    last of ``steps`` where they are given. A metric that a phase has not at all is left to the comparisons.
    """
    rows = []
    for number, wanted in _wanted_steps(run):
        card = run.actual1 if number == 1 else run.actual2
        for name in run.metrics:
            if name not in card.metrics:
                continue
            lost = np.setdiff1d(wanted, card.metrics[name].steps)
            if steps is not None:
                lost = lost[(lost >= steps[0]) & (lost <= steps[1])]
            if run.subject and name == "iteration-time":  # of its first step Megatron-LM may log none
                lost = lost[lost != wanted[:1]]
            if lost.size:
                rows.append(_row(number, name, lost))
    return rows


def _wanted_steps(run: Run) -> Iterator[tuple[int, np.ndarray]]:
    phases: list[tuple[int, Mapping[str, object], Mapping[str, object] | None]] = []
    phases.append((1, run.model_args, run.record1 if run.goes_on_from_kept else None))
    if run.actual2 is not None:
        changed = run.restart.get("model_args")
        args = {**run.model_args, **(changed if isinstance(changed, Mapping) else {})}
        phases.append((2, args, run.record2))
    for number, args, record in phases:
        first = (loaded_iteration(record or {}) or 0) + 1
        every = _log_interval(args) if run.subject else 1
        yield number, np.arange(first + -first % every, last_iteration(args) + 1, every)


def _log_interval(args: Mapping[str, object]) -> int:
    """Of Megatron-LM's loop, which logs some metrics at the one interval and some at the other."""
    log = int(args.get("--log-interval") or LOG_INTERVAL_OF_MEGATRON_LM)
    return math.lcm(log, int(args.get("--tensorboard-log-interval") or 1))


def _row(number: int, name: str, lost: np.ndarray) -> Row:
    many = f" and {lost.size - 1} more" if lost.size > 1 else ""
    return Row(
        comparison=RESTART,
        metric=f"phase {number}: {name}",
        check=CHECK_EQUAL,
        first_step=int(lost[0]),
        verdict=MISSING,
        passed=False,
        note=f"phase {number} logged no step {lost[0]}{many}",
    )
