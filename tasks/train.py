"""Step 1: train a case from its first iteration to its last, saving checkpoints on the way.

``python -m tasks.train CASE --run-dir DIR`` writes DIR/case.json, DIR/phase1/, DIR/checkpoints/,
DIR/actual_phase1.json and DIR/phase1.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from pathlib import Path

from tasks.launch import phase, retries
from tasks.launch.node_barrier import NodeBarrier, run_on_all_nodes
from tasks.launch.options import add_phase_arguments
from tasks.launch.setup import check_space, prepare
from tasks.machine.nodes import read_nodes, refuse_alone_only
from tasks.records import kept_checkpoint
from tasks.util.exits import PASSED, UsageError, exit_with, run_to_end
from tasks.util.files import REPOSITORY


def main(argv: list[str] | None = None) -> int:
    """Train; returns ``PASSED`` or raises a ``TaskError``."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.train", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    add_phase_arguments(parser)
    parser.add_argument(
        "--from-start",
        action="store_true",
        help="train a case of type frozen-resume from its first iteration, to make its checkpoint anew",
    )
    parser.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help="go on with a phase that was interrupted, from its newest complete checkpoint; the verdict"
        " counts it as a restart",
    )
    options = parser.parse_args(argv)
    nodes = read_nodes(options)
    refuse_alone_only(nodes, retries=options.retries > 0, go_on=options.go_on)
    if options.go_on and options.retries > 0:
        raise UsageError(
            "--continue and --retries: a retry moves the files of a failed try aside; give one of them"
        )
    if nodes.first:
        _check_run_dir(options.run_dir, go_on=options.go_on)
    if options.retries > 0:
        return retries.supervise(
            "train", argv or sys.argv[1:], run_dir=options.run_dir, phase=1, retries=options.retries
        )
    return run_on_all_nodes(nodes, options.run_dir, "train", functools.partial(_train, options))


def _train(options: argparse.Namespace, barrier: NodeBarrier) -> int:
    setup = prepare(options, barrier.nodes)
    if options.from_start and setup.case.test_type != kept_checkpoint.TYPE:
        raise UsageError(f"--from-start: {setup.case.name} begins at its first iteration anyway: drop it")
    load_iteration = None
    if setup.case.test_type == kept_checkpoint.TYPE and not options.from_start:
        checkpoint = kept_checkpoint.check(setup.case, setup.platform.name)
        load_iteration = kept_checkpoint.iteration_of(checkpoint)
        setup = dataclasses.replace(setup, load_from=checkpoint)
    check_space(setup.run_dir)
    if options.go_on:
        phase.check_same_run(setup)
    elif barrier.first:
        if setup.load_from:
            kept_checkpoint.take_along(setup.load_from, setup.run_dir)
        phase.write_case_file(setup)
    phase.run_phase(setup, 1, barrier, load_iteration=load_iteration)
    return PASSED


def _check_run_dir(run_dir: Path, *, go_on: bool) -> None:
    if run_dir.resolve() == REPOSITORY:
        raise UsageError(f"--run-dir {run_dir}: is the checkout itself: give a folder of its own")
    begun, ended = (run_dir / "case.json").exists(), (run_dir / "actual_phase1.json").exists()
    if go_on and not begun:
        raise UsageError(f"{run_dir} holds no run to go on with: drop --continue")
    if go_on and ended:
        raise UsageError(f"{run_dir}: its phase 1 came to an end: there is nothing to go on with")
    if begun and not go_on:
        hint = "" if ended else ", or go on with it: --continue"
        raise UsageError(f"{run_dir} already holds a run: choose another --run-dir, remove it{hint}")


if __name__ == "__main__":
    exit_with(functools.partial(run_to_end, main))
