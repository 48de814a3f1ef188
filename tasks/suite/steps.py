"""The steps of one case, as tasks with their command lines: train, restart, compare, draw.

Only the standard library is imported: the noxfile reads this.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.launch import trainer
from tasks.machine import nodes
from tasks.util.exits import MEANINGS, MISMATCH, PASSED, TRAINING_FAILED

# Only comparing can say "does not match"; Python itself exits with the same code after a crash.
TRAINING_TASKS = ("train", "resume")


@dataclass(frozen=True, kw_only=True)
class Step:
    """``python -m tasks.<task> <arguments>``. ``whatever_was_found``: also after a comparison that failed."""

    task: str
    arguments: tuple[str, ...]
    whatever_was_found: bool = False

    @property
    def words(self) -> list[str]:
        """What follows ``python`` on the command line."""
        return ["-m", f"tasks.{self.task}", *self.arguments]


def new_directory(case: str) -> Path:
    """Where a run of the case is kept when nobody says where; no two runs get the same."""
    return Path("runs", case, f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")


def case_steps(case: str, options: argparse.Namespace, run_dir: Path) -> list[Step]:
    """The steps of ``case`` with the options of a session, in their order."""
    directory = ["--run-dir", str(run_dir)]
    among = nodes.words(options)
    common = [*_settings(options), *among]
    named = ["--case-file", str(options.case_file)] if options.case_file else [case]
    launch = (*named, *directory, *common, *trainer.words(options))
    found, card = [], []
    if options.baseline:
        baseline = run_dir / "baseline"
        card = ["--golden", str(baseline / "actual_phase1.json")]
        base = (*named, "--run-dir", str(baseline), *common, "--megatron-lm", options.baseline)
        found.append(Step(task="train", arguments=base))
    found += [Step(task="train", arguments=launch), Step(task="resume", arguments=launch)]
    found.append(Step(task="diff", arguments=(case, *directory, *card, *among)))
    if options.nodes.first:
        found.append(Step(task="report", arguments=(*directory, *card), whatever_was_found=True))
    return found


def _settings(options: argparse.Namespace) -> list[str]:
    """Options that are handed on to training as they are."""
    given = [("--set", setting) for setting in options.set]
    given += [("--rank-plugin", plugin) for plugin in options.rank_plugin]
    given += [
        ("--data-path", options.data_path),
        ("--hang-timeout", options.hang_timeout),
        ("--max-restarts", options.max_restarts),
        ("--retries", options.retries),
    ]
    return [word for flag, value in given if value for word in (flag, value)]


def following(steps: Sequence[Step], codes: Sequence[int]) -> Step | None:
    """The step after those that ended with ``codes``: none when one gave the next nothing to work on."""
    if len(codes) == len(steps):
        return None
    step = steps[len(codes)]
    return step if step.whatever_was_found or not any(codes) else None


def exit_code(codes: Sequence[int]) -> int:
    """Of the case: that of the first step which failed."""
    return next((code for code in codes if code), PASSED)


def code_of(task: str, return_code: int) -> int:
    """What the end of a task's process means. A crash, or a signal, is no verdict: training failed."""
    crashed = return_code not in (PASSED, *MEANINGS) or (return_code == MISMATCH and task in TRAINING_TASKS)
    return TRAINING_FAILED if crashed else return_code
