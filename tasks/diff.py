"""Step 3: compare a run with its golden card, and its restart with the run; print the table; exit code.

``python -m tasks.diff CASE --run-dir DIR``, or any two cards: ``python -m tasks.diff --golden A.json --actual
B.json``.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.machine.nodes import OPTIONS, add_options, read_nodes
from tasks.util.exits import PASSED, UsageError, exit_with

if TYPE_CHECKING:
    from tasks.judge.run import Verdict
    from tasks.launch.node_barrier import NodeBarrier

FORMATS = ("table", "json", "markdown", "junit", "html")


def main(argv: list[str] | None = None) -> int:
    """Compare, print, write the reports of a run.

    Raises:
        UsageError: bad input; of a run's golden card only after the rest of the comparison was printed.
    """
    arguments = _parser().parse_args(argv)
    _refuse_half_a_pair(arguments)
    nodes = read_nodes(arguments)
    if arguments.run_dir and nodes.several:
        from tasks.launch.node_barrier import FINAL_TASK, run_on_all_nodes

        def compare_on_node_0(barrier: NodeBarrier) -> int:
            return _compare(arguments) if barrier.first else PASSED

        code = run_on_all_nodes(nodes, arguments.run_dir, FINAL_TASK, compare_on_node_0)
        if not nodes.first:
            print(f"node 0 judged the run and prints the table: exit code {code}")
        return code
    return _compare(arguments)


def _compare(arguments: argparse.Namespace) -> int:
    # NumPy only from here on: --help and a mistyped option answer at once.
    from tasks.judge import run
    from tasks.reports import formats

    checks = {"both": ("exact", "approximate")}.get(arguments.check, (arguments.check,))
    options = run.Options(policy=arguments.policy, steps=parse_steps(arguments.steps), checks=checks)
    if arguments.run_dir:
        formats.forget_reports(arguments.run_dir)
        verdict = run.judge_run(
            arguments.run_dir, case_name=arguments.case, golden_file=arguments.golden, options=options
        )
        try:
            formats.write_reports(verdict, arguments.run_dir)
        finally:  # what was found is said, also where it cannot be kept
            _say(verdict, arguments.format)
    else:
        verdict = run.judge_pair(arguments.golden, arguments.actual, options=options)
        _say(verdict, arguments.format)
    if verdict.error:
        print(f"error: {verdict.error}", file=sys.stderr)
    return verdict.exit_code


def _say(verdict: Verdict, form: str) -> None:
    from tasks.reports import render

    sys.stdout.write(render.render(verdict, form, colour=colour_wanted()))
    sys.stdout.flush()


def parse_steps(text: str | None) -> tuple[int, int] | None:
    """ "20-40" as (20, 40); "20" as (20, 20).

    Raises:
        UsageError: not a range of steps.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if first > last:
        raise UsageError(
            f"--steps {text}: write the first and the last step to compare, for example --steps 60-80"
        )
    return first, last


def same_file(first: Path, second: Path) -> bool:
    """True when both exist and are the same file."""
    return first.exists() and second.exists() and first.samefile(second)


def colour_wanted() -> bool:
    """Colour only on a terminal, and not where NO_COLOR is set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _refuse_half_a_pair(arguments: argparse.Namespace) -> None:
    if arguments.run_dir and arguments.actual:
        raise UsageError("--run-dir and --actual: give one of them; a run brings its own actual values")
    if not arguments.run_dir and not (arguments.golden and arguments.actual):
        raise UsageError("nothing to compare: give CASE --run-dir DIR, or --golden A.json --actual B.json")
    if not arguments.run_dir and arguments.case:
        raise UsageError(f"{arguments.case}: two cards are compared as they are; give CASE with --run-dir")
    if not arguments.run_dir and same_file(arguments.golden, arguments.actual):
        raise UsageError(f"{arguments.golden}: given twice; a card equals itself, that shows nothing")
    if not arguments.run_dir and any(vars(arguments)[name] is not None for name in OPTIONS):
        raise UsageError(
            "--nnodes and what belongs to it: two cards are compared on one machine; leave it out"
        )
    if arguments.check != "both" and arguments.policy != "megatron":
        raise UsageError(
            f"--check {arguments.check}: only with --policy megatron; strict chooses by fingerprint"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.diff",
        description="Compare a run with its golden card, or any two cards. "
        "Exit code: 0 matches, 1 does not, 2 bad input.",
        allow_abbrev=False,
    )
    parser.add_argument("case", nargs="?", metavar="CASE", help="name of the case; the run must be one of it")
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="the folder that tasks.train and tasks.resume wrote"
    )
    parser.add_argument(
        "--golden", type=Path, metavar="CARD", help="golden card (default: by environment and platform)"
    )
    parser.add_argument(
        "--actual", type=Path, metavar="CARD", help="card to compare with --golden, without a run"
    )
    parser.add_argument(
        "--policy",
        choices=("strict", "megatron"),
        default="strict",
        help="megatron decides exactly as Megatron-LM's comparator does (default: strict)",
    )
    parser.add_argument(
        "--check",
        choices=("both", "exact", "approximate"),
        default="both",
        help="of the megatron policy (approximate: as with --allow-nondeterministic-algo there)",
    )
    parser.add_argument("--steps", metavar="A-B", help="compare these steps only; the table says so")
    parser.add_argument(
        "--format", choices=FORMATS, default="table", help="of what is printed (default: table)"
    )
    add_options(parser)
    return parser


if __name__ == "__main__":
    exit_with(main)
