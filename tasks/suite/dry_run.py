"""Dry run: everything that a run would read is read and checked, and its steps are named."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.cases import corpus
from tasks.cases.case import Case
from tasks.launch import setup
from tasks.launch.setup import Setup
from tasks.machine import platforms
from tasks.machine.nodes import ALONE
from tasks.suite.steps import case_steps
from tasks.util.exits import TaskError, UsageError
from tasks.util.files import REPOSITORY


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a case. ``error``: that with which its run would end; None if none can be foreseen."""

    lines: tuple[str, ...] = ()
    error: TaskError | None = None


def plan(case: str, options: argparse.Namespace, run_dir: Path, *, root: Path = REPOSITORY) -> Plan:
    """Platform, golden card and notes of a case, then the command line of each step."""
    try:
        made = read(case, options, run_dir, root=root, find=setup.find_data_unless_built)
        if options.baseline:
            theirs = {"megatron_lm": Path(options.baseline), "trainer": None, "subject": None}
            baseline = argparse.Namespace(**(vars(options) | theirs))
            read(case, baseline, run_dir, root=root, find=setup.find_data_unless_built)
    except TaskError as error:
        return Plan(error=error)
    card, error = _card(made, options, root)
    commands = [f"would run: python {shlex.join(step.argv)}" for step in case_steps(case, options, run_dir)]
    return Plan(lines=(_platform(made), *made.notes, f"golden card: {card}", *commands), error=error)


def read(
    case: str,
    options: argparse.Namespace,
    run_dir: Path,
    *,
    platform: platforms.Platform | None = None,
    root: Path = REPOSITORY,
    find: Callable[[Case, Path | None], corpus.Built],
) -> Setup:
    """The setup of both phases of a case, checked; see ``setup.read`` for the arguments.

    Raises:
        TaskError: the error with which one of the phases would end before a rank starts.
    """
    from tasks.launch import phase  # NumPy: not needed for --help
    from tasks.records import kept_checkpoint

    named = {"case": None if options.case_file else case, "run_dir": run_dir}
    nodes = ALONE if platform else options.nodes
    phases = argparse.Namespace(**(vars(options) | named))
    made = setup.read(phases, nodes, platform=platform, root=root, find=find)
    made.restarted()
    if made.case.test_type == "ckpt-resume":
        phase.resume_iteration(made.case)
    if made.case.test_type == kept_checkpoint.TYPE:
        kept_checkpoint.check(made.case, made.platform.name, root)
    return made


def _platform(made: Setup) -> str:
    platform, nodes = made.platform, made.nodes
    on = f", {platform.ranks_per_gpu} a GPU" if platform.device == "cuda" else ""
    here = f"; this is node {nodes.rank} of {nodes.count}" if nodes.several else ""
    environment = platforms.environment()
    return f"platform: {platform.name}, {platform.world_size} ranks{on}; environment {environment}{here}"


def _card(made: Setup, options: argparse.Namespace, root: Path) -> tuple[str, UsageError | None]:
    """A description of the card that the run is compared with; and the error, if it cannot be used."""
    from tasks.records import card_store  # NumPy: not needed for --help

    if options.baseline:
        return f"none, every step is compared with {options.baseline}", None
    name = made.case.golden_case
    if not made.trainer.own:
        kept = made.goldens or f"goldens/{name}@{made.trainer.name}/"
        return f"from {kept}; where there is none, the restart alone decides", None
    try:
        found = card_store.find_card(root, name, platforms.environment(), made.platform.name, made.goldens)
        card_store.usable_card(found.path)
        card_store.origin(found.path)
    except UsageError as error:
        return "none that can be used", error
    path = found.path.relative_to(root) if found.path.is_relative_to(root) else found.path
    generic = f" (no card of {made.platform.name}: approximate checks only)" if found.generic else ""
    return f"{path}{generic}", None
