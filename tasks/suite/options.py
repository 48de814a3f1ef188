"""What people give behind nox's ``--``, read once for the session and for the task that it becomes.

Only the standard library is imported: the noxfile reads this.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from tasks.launch import trainer
from tasks.machine import nodes
from tasks.suite import outcomes
from tasks.util.exits import UsageError


def read_session_options(session: str, words: Sequence[str]) -> argparse.Namespace:
    """The options of a nox session that runs cases. argparse exits with 2, or with 0 after its help.

    Raises:
        UsageError: options that do not go together.
    """
    parser = argparse.ArgumentParser(prog=f"nox -s {session} --", allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true", help="print what would run")
    if session != "regress":
        options = _read(parser, words)
        if options.case_file and session != "case":
            raise UsageError(f"--case-file: is another case than {session}: nox -s case -- --case-file PATH")
        return options
    parser.add_argument("--list", action="store_true", help="list the cases, run nothing")
    parser.add_argument("--json", action="store_true", help="with --list: as JSON")
    options = read_suite_options(parser, words)
    if options.json and not options.list:
        raise UsageError("--json: only with --list; what came out of a regress is in its regress.json")
    return options


def read_suite_options(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """The options of the task that runs several cases.

    Raises:
        UsageError: options that do not go together.
    """
    outcomes.add_options(parser)
    options = _read(parser, words)
    outcomes.check(options)
    if options.case_file:
        raise UsageError("--case-file: it is one case of its own: nox -s case -- --case-file PATH")
    return options


def _read(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    _add_options(parser)
    trainer.add_options(parser)
    nodes.add_options(parser)
    options = parser.parse_args(words)
    _refuse_empty(words)
    options.nodes = nodes.read(options)
    if options.nodes.several and not options.run_dir:
        raise UsageError("several machines need one folder that all of them see: give --run-dir DIR")
    return options


def _refuse_empty(words: Sequence[str]) -> None:
    """What was given as nothing would be left out in silence, and something else be run, compared or written
    over: a path of no letters is the folder that nox runs in.
    """
    for before, word in zip(["what is behind --", *words], words, strict=False):
        empty = before if word == "" else word[:-1] if re.fullmatch(r"--[a-z-]+=", word) else ""
        if empty:
            raise UsageError(f"{empty}: is empty (a variable that is not set?)")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        type=Path,
        help="where the run is kept; of several cases each in DIR/<case> (default: runs/<case>/<time>)",
    )
    parser.add_argument(
        "--set",
        metavar="FLAG=VALUE",
        action="append",
        default=[],
        help="a Megatron flag of the case, changed: --set train-iters=60 (repeatable)",
    )
    parser.add_argument(
        "--rank-plugin", metavar="FILE", action="append", default=[], help="Python for each rank (repeatable)"
    )
    parser.add_argument(
        "--data-path", metavar="PREFIX", help="train on this Megatron dataset: PREFIX.bin, PREFIX.idx"
    )
    parser.add_argument("--case-file", type=Path, metavar="PATH", help="a case file of Megatron-LM")
    parser.add_argument("--baseline", metavar="PATH", help="compare with this checkout, not with a card")
    parser.add_argument(
        "--hang-timeout",
        metavar="SECONDS",
        help="how long no progress is a hang (default: 10 times the slowest step, at least 60)",
    )
    parser.add_argument("--max-restarts", metavar="N", help="how often failed ranks are started again")
    parser.add_argument(
        "--retries",
        metavar="N",
        help="how often a phase that failed by its surroundings is tried again (default: never)",
    )
