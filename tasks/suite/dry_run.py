"""What nox is asked for, and what a session would do on this machine, for ``--dry-run``.

Only the standard library is imported: the noxfile reads this.
"""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from tasks.cases import names
from tasks.launch import trainer
from tasks.machine import nodes, platforms
from tasks.util.exits import TaskError
from tasks.util.files import REPOSITORY


def describe(
    case: str,
    among: nodes.Nodes = nodes.ALONE,
    options: argparse.Namespace | None = None,
    *,
    root: Path = REPOSITORY,
) -> list[str]:
    """Where a case would run and what it would be held to, a line each.

    On a machine that cannot run it, the line says why: a dry run tells, it does not fail.
    """
    try:
        platform = nodes.spread(platforms.detect(), among)
    except TaskError as error:
        return [f"platform: none: {error}"]
    environment = platforms.environment()
    on = f", {platform.ranks_per_gpu} a GPU" if platform.device == "cuda" else ""
    here = f"; this is node {among.rank} of {among.count}" if among.several else ""
    card = options and _of_another_kind(case, options, root)
    return [
        f"platform: {platform.name}, {platform.world_size} ranks{on}; environment {environment}{here}",
        *(f"note: {note}" for note in platform.notes),
        f"golden card: {card or golden_card(case, environment, platform.name, root, options)}",
    ]


def _of_another_kind(case: str, options: argparse.Namespace, root: Path) -> str:
    """What options have a run held to in the place of a case's own card; empty: to that."""
    if options.baseline:
        return f"none, every step is compared with {options.baseline}"
    if options.megatron_lm or options.trainer == trainer.MEGATRON:
        default = "<its commit>" if options.megatron_lm else "megatron-core-<its version>"
        folder = f"goldens/{names.golden_case(case, root)}@{options.subject or default}/"
        where = "the folder of the case file" if options.case_file else folder
        return f"from {where}; where there is none, the restart alone decides"
    return ""


def golden_card(
    case: str,
    environment: str,
    platform_name: str,
    root: Path = REPOSITORY,
    options: argparse.Namespace | None = None,
) -> str:
    """The card that a run of ``case`` is held to, in words; chosen as ``golden.find_card`` does."""
    folder = Path("goldens", names.golden_case(case, root))
    if options and options.case_file:
        folder = options.case_file if options.case_file.is_dir() else options.case_file.parent
    own, generic = f"golden_values_{environment}_{platform_name}.json", f"golden_values_{environment}.json"
    if (root / folder / own).is_file():
        return str(folder / own)
    if (root / folder / generic).is_file():
        return f"{folder / generic} (no {own}: approximate checks only)"
    advice = f"put {own} beside the file" if options and options.case_file else _advice(folder.name)
    return f"none: the session would exit 2; {advice}"


def _advice(case: str) -> str:
    return f'record one: nox -s record -- {case} --reason "..."'


def unknown_session(words: list[str], known: list[str]) -> str | None:
    """What is wrong with the sessions that nox's command line names, or None; what is behind ``--`` is no
    session.
    """
    words = words[: words.index("--")] if "--" in words else words
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-s", "--session", "--sessions", nargs="*", action="extend", default=[])
    for name in parser.parse_known_args(words)[0].session:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" Did you mean {close[0]}?" if close else ""
            return f"there is no session {name!r}.{hint} Sessions: {', '.join(known)}"
    return None
