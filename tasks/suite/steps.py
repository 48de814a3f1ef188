"""The steps of one case, as tasks with their command lines: train, resume, diff, report."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.launch import options as phase_options
from tasks.launch import trainer
from tasks.machine import nodes
from tasks.util.exits import MEANINGS, MISMATCH, PASSED, TRAINING_FAILED

# Only a comparison can end with "does not match"; Python exits with the same code after a crash.
TRAINING_TASKS = ("train", "resume")


@dataclass(frozen=True, kw_only=True)
class Step:
    """``python -m tasks.<task> <arguments>``. ``always_run``: even after a failed comparison."""

    task: str
    arguments: tuple[str, ...]
    always_run: bool = False

    @property
    def argv(self) -> list[str]:
        """The arguments of ``python``."""
        return ["-m", f"tasks.{self.task}", *self.arguments]


def new_directory(case: str) -> Path:
    """The default run directory; different for each run."""
    return Path("runs", case, f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")


def case_steps(case: str, options: argparse.Namespace, run_dir: Path) -> list[Step]:
    """The steps of ``case``, in order, with the options that each takes."""
    directory = ["--run-dir", str(run_dir)]
    several = phase_options.argv(options, nodes.OPTIONS)
    common = phase_options.argv(options, phase_options.PHASE)
    named = ["--case-file", str(options.case_file)] if options.case_file else [case]
    launch = (*named, *directory, *common, *phase_options.argv(options, trainer.OPTIONS))
    found, card = [], []
    if options.baseline:
        baseline = run_dir / "baseline"
        card = ["--golden", str(baseline / "actual_phase1.json")]
        base = (*named, "--run-dir", str(baseline), *common, "--megatron-lm", options.baseline)
        found.append(Step(task="train", arguments=base))
    found += [Step(task="train", arguments=launch), Step(task="resume", arguments=launch)]
    found.append(Step(task="diff", arguments=(case, *directory, *card, *several)))
    if options.nodes.first:
        found.append(Step(task="report", arguments=(*directory, *card), always_run=True))
    return found


def following(steps: Sequence[Step], codes: Sequence[int]) -> Step | None:
    """The step after those that ended with ``codes``; None after the last, or after one that failed."""
    if len(codes) == len(steps):
        return None
    step = steps[len(codes)]
    return step if step.always_run or not any(codes) else None


def exit_code(codes: Sequence[int]) -> int:
    """The exit code of the case: that of the first failed step."""
    return next((code for code in codes if code), PASSED)


def code_of(task: str, return_code: int) -> int:
    """The exit code for a task's return code. A crash or a signal means that training failed."""
    crashed = return_code not in (PASSED, *MEANINGS) or (return_code == MISMATCH and task in TRAINING_TASKS)
    return TRAINING_FAILED if crashed else return_code
