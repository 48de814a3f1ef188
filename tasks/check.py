"""Check cases and their golden cards without running anything: ``python -m tasks.check [CASE ...]``.

A case is read for each platform that its file names, that it has a card of, and that this machine is, as a
run there would read it. Without a name all cases are checked, and all files below ``goldens/``.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from tasks.cases.loader import golden_case, read_content
from tasks.cases.names import case_names
from tasks.launch import setup
from tasks.machine import platforms
from tasks.records import card_lint
from tasks.suite import dry_run
from tasks.suite.options import read_case_options
from tasks.util.exits import PASSED, USAGE, CannotRun, TaskError, UsageError, exit_with
from tasks.util.files import REPOSITORY, mapping

HEAD = ("case", "platform", "ranks", "golden cards")
ENVIRONMENTS = ("lts", "dev")
_CPUS = ("cpu_x86_64", "cpu_aarch64")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A case on a platform. ``error``: empty where nothing is wrong."""

    case: str
    platform: str
    ranks: int = 0
    cards: str = ""
    error: str = ""


def main(argv: list[str] | None = None) -> int:
    """Print a line for each case and platform, then each error."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.check",
        description="Check cases on each of their platforms, and their golden cards. Exits 2 on an error.",
        allow_abbrev=False,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: all cases, and all golden cards")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="the repository (default: this one)")
    arguments = parser.parse_args(argv)
    return check(arguments.cases, arguments.root)


def check(given: list[str], root: Path) -> int:
    """Check the given cases, or all of them; returns the exit code."""
    from tabulate import tabulate  # not needed for --help

    rows = [row for case in given or case_names(root) for row in check_case(case, root)]
    good = [(row.case, row.platform, row.ranks, row.cards) for row in rows if not row.error]
    if good:
        print(tabulate(good, headers=HEAD, tablefmt="plain", disable_numparse=True))
    found = [row.error for row in rows if row.error]
    found += card_lint.problems(root, _golden_cases(given, root) if given else None)
    errors = list(dict.fromkeys(found))  # an heir has the errors of its base
    for error in errors or ["cases and golden cards: no error"]:
        print(f"error: {error}" if errors else error)
    return USAGE if errors else PASSED


def check_case(case: str, root: Path) -> list[Checked]:
    """The case on each of its platforms."""
    try:
        names = platform_names(case, root)
    except TaskError as error:
        return [Checked(case=case, platform="", error=str(error))]
    return [_check(case, name, root) for name in names]


def platform_names(case: str, root: Path) -> list[str]:
    """Platforms that the case's file names, that it has a card of, and that this machine is. A pattern stands
    for the processors that it fits, or for a GPU of any model.

    Raises:
        UsageError: the file or one of its bases cannot be read.
    """
    found: list[str] = []
    for entry in mapping(read_content(case, root).get("PLATFORMS")):
        pattern = re.compile(str(entry).replace("*", ".*").replace("?", "."))
        processors = [name for name in _CPUS if pattern.fullmatch(name)]
        found += processors or [str(entry).replace("*", "any").replace("?", "0")]
    for path in sorted((root / "goldens" / golden_case(case, root)).glob("golden_values_*_*.json")):
        found.append(path.stem.removeprefix("golden_values_").partition("_")[2].partition(".")[0])
    with contextlib.suppress(TaskError):  # a machine that can run nothing has no platform
        found.append(platforms.detect().name)
    return list(dict.fromkeys(found))


def _check(case: str, name: str, root: Path) -> Checked:
    options, ranks = read_case_options([case]), 0
    try:
        platform = platforms.named(name)
        ranks = platform.world_size
        made = dry_run.read(
            case, options, Path(), platform=platform, root=root, find=lambda *_: setup.NO_TEXT
        )
    except CannotRun:  # its checkpoint is of another device: no fault of the case
        return Checked(case=case, platform=name, ranks=ranks, cards="does not run there")
    except UsageError as error:
        return Checked(case=case, platform=name, error=str(error))
    cards = _cards(made.case.golden_case, name, root)
    return Checked(case=case, platform=name, ranks=ranks, cards=cards)


def _cards(name: str, platform: str, root: Path) -> str:
    """The environments of which there is a card; what is wrong with one is found by the linter."""
    from tasks.records import card_store  # NumPy: not needed for --help

    found = []
    for environment in ENVIRONMENTS:
        with contextlib.suppress(card_store.NoGoldenCard):
            card = card_store.find_card(root, name, environment, platform)
            found.append(f"{environment} (generic)" if card.generic else environment)
    return ", ".join(found) or "none yet"


def _golden_cases(cases: list[str], root: Path) -> set[str]:
    found = set()
    for case in cases:
        with contextlib.suppress(TaskError):  # an error of the case, already told
            found.add(golden_case(case, root))
    return found


if __name__ == "__main__":
    exit_with(main)
