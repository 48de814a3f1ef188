"""Command-line options of ``tasks.run`` (one case) and ``tasks.regress`` (several)."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tasks.launch.options import add_case, add_options
from tasks.machine import nodes, platforms
from tasks.util.exits import UsageError


def read_case_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options of one case. argparse exits with 2, or with 0 after its help.

    Raises:
        UsageError: conflicting options.
    """
    parser = _parser("run", "Train one case, restart it, compare every step, draw the report.")
    add_case(parser)
    options = _read(parser, argv)
    if options.case and options.case_file:
        raise UsageError(f"--case-file: is another case than {options.case}: nox -s case -- --case-file PATH")
    if not options.case and not options.case_file:
        raise UsageError("give the file: nox -s case -- --case-file PATH/model_config.yaml")
    return options


def read_suite_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options of several cases.

    Raises:
        UsageError: options that conflict with each other or with this machine.
    """
    parser = _parser("regress", "Run all cases supported here, print a table of how each ended.")
    _add_suite_options(parser)
    parser.add_argument("--case-file", help=argparse.SUPPRESS)
    options = _read(parser, argv)
    _check(options)
    return options


def _parser(task: str, description: str) -> argparse.ArgumentParser:
    session = os.environ.get("NOX_CURRENT_SESSION")  # set by nox: the help shows the command that was typed
    program = f"nox -s {session} --" if session else f"python -m tasks.{task}"
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true", help="print what would run")
    return parser


def _add_suite_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several cases")
    group.add_argument("--list", action="store_true", help="list the cases, run nothing")
    group.add_argument("--json", action="store_true", help="with --list: as JSON")
    group.add_argument("--only", metavar="CASE", action="append", default=[], help="this case (repeatable)")
    group.add_argument("--jobs", metavar="N", type=int, default=1, help="so many cases at once (default: 1)")
    group.add_argument("--fail-fast", action="store_true", help="start no case after the first failure")
    again = "only the cases that did not pass in the newest regress here"
    group.add_argument("--rerun-failed", action="store_true", help=again)
    group.add_argument("--require", action="store_true", help="a skipped case is exit 5")


def _read(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    kept = "folder of the run; with several cases, DIR/<case> each (default: runs/<case>/<time>)"
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help=kept)
    parser.add_argument("--baseline", metavar="PATH", help="compare with this checkout, not with a card")
    add_options(parser)
    _refuse_empty(argv)
    options = parser.parse_args(argv)
    options.nodes = nodes.read_nodes(options)
    if options.nodes.several and not options.run_dir:
        raise UsageError("several machines need one folder that all of them see: give --run-dir DIR")
    return options


def _refuse_empty(argv: Sequence[str]) -> None:
    """Raises ``UsageError`` for an empty value, usually an unset shell variable: ``--run-dir ''`` would mean
    the current directory.
    """
    for before, argument in zip(["an argument", *argv], argv, strict=False):
        empty = before if argument == "" else argument[:-1] if re.fullmatch(r"--[a-z-]+=", argument) else ""
        if empty:
            raise UsageError(f"{empty}: is empty (a variable that is not set?)")


def _check(options: argparse.Namespace) -> None:
    if options.json and not options.list:
        raise UsageError("--json: only with --list; what came out of a regress is in its regress.json")
    if options.case_file:
        raise UsageError("--case-file: it is one case of its own: nox -s case -- --case-file PATH")
    if options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs}: must be at least 1")
    if options.jobs > 1 and options.nodes.several:
        raise UsageError(
            f"--jobs {options.jobs}: not on several machines, whose cases begin and end together"
        )
    if options.jobs > 1 and platforms.on_gpus():
        raise UsageError(f"--jobs {options.jobs}: not on GPUs, each case needs all of them")
    if options.rerun_failed and options.only:
        raise UsageError("--rerun-failed and --only: give one of them")
    if options.rerun_failed and options.nodes.several:
        raise UsageError("--rerun-failed: not on several machines; name the cases, --only CASE")
