"""Dry run: the platform, rank count and golden card of a case, and the steps that would run."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tasks.cases.loader import golden_case, overridden_lines
from tasks.launch import trainer
from tasks.machine import nodes, platforms
from tasks.suite.steps import case_steps
from tasks.util.exits import TaskError, UsageError
from tasks.util.files import REPOSITORY


def plan(case: str, options: argparse.Namespace, run_dir: Path) -> str:
    """The lines of ``describe``, then the command line of each step."""
    steps = case_steps(case, options, run_dir)
    commands = [f"would run: python {shlex.join(step.argv)}" for step in steps]
    return "\n".join([*describe(case, options), *commands])


def describe(case: str, options: argparse.Namespace, *, root: Path = REPOSITORY) -> list[str]:
    """The platform of a case and its golden card, a line each; errors are reported in the line."""
    try:
        platform = nodes.spread(platforms.detect(), options.nodes)
    except TaskError as error:
        return [f"platform: none: {error}"]
    environment = platforms.environment()
    on = f", {platform.ranks_per_gpu} a GPU" if platform.device == "cuda" else ""
    several = options.nodes.several
    here = f"; this is node {options.nodes.rank} of {options.nodes.count}" if several else ""
    try:
        card = _card(case, environment, platform.name, options, root)
    except UsageError as error:
        card = f"none, the run would exit {error.exit_code}: {error}"
    return [
        f"platform: {platform.name}, {platform.world_size} ranks{on}; environment {environment}{here}",
        *(f"note: {note}" for note in platform.notes),
        *_values_without_effect(case, options, platform, root),
        f"golden card: {card}",
    ]


def _values_without_effect(
    case: str, options: argparse.Namespace, platform: platforms.Platform, root: Path
) -> list[str]:
    """Values of the case that its platform's entries override; Megatron-LM's own parser is not asked."""
    if options.case_file or options.megatron_lm or options.trainer == trainer.MEGATRON:
        return []
    settings = {"platform_name": platform.name, "world_size": platform.world_size}
    return overridden_lines(case, options.set, root=root, **settings)


def _card(case: str, environment: str, platform: str, options: argparse.Namespace, root: Path) -> str:
    """A description of the card that a run with these options is compared with.

    Raises:
        UsageError: there is none.
    """
    from tasks.records import card_store  # NumPy, which nothing else here needs

    if options.baseline:
        return f"none, every step is compared with {options.baseline}"
    file: Path | None = options.case_file
    if options.megatron_lm or options.trainer == trainer.MEGATRON:
        default = "<its commit>" if options.megatron_lm else "megatron-core-<its version>"
        kept = "the folder of the case file" if file else f"goldens/{golden_case(case, root)}"
        where = kept if file else f"{kept}@{options.subject or default}/"
        return f"from {where}; where there is none, the restart alone decides"
    name = case if file else golden_case(case, root)
    folder = file if file is None or file.is_dir() else file.parent
    found = card_store.find_card(root, name, environment, platform, folder)
    path = found.path.relative_to(root) if found.path.is_relative_to(root) else found.path
    return f"{path} (no card of {platform}: approximate checks only)" if found.generic else str(path)
