"""Step 2: restart a trained case in new processes from its checkpoint, and train to the end again.

``python -m tasks.resume CASE --run-dir DIR`` writes DIR/phase2/, DIR/actual_phase2.json and DIR/phase2.json;
what phase 1 wrote stays as it is.
"""

from __future__ import annotations

import argparse
import functools
import sys

from tasks.launch import phase, retries
from tasks.launch.node_barrier import NodeBarrier, run_on_all_nodes
from tasks.launch.options import add_phase_arguments
from tasks.launch.setup import check_space, prepare
from tasks.machine.nodes import read_nodes, refuse_alone_only
from tasks.records import checkpoints
from tasks.util.exits import PASSED, UsageError, exit_with, run_to_end


def main(argv: list[str] | None = None) -> int:
    """Restart; returns ``PASSED`` or raises a ``TaskError``."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.resume", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    add_phase_arguments(parser)
    options = parser.parse_args(argv)
    nodes = read_nodes(options)
    refuse_alone_only(nodes, retries=options.retries > 0)
    if options.retries > 0:
        return retries.supervise(
            "resume", argv or sys.argv[1:], run_dir=options.run_dir, phase=2, retries=options.retries
        )
    return run_on_all_nodes(nodes, options.run_dir, "resume", functools.partial(_resume, options))


def _resume(options: argparse.Namespace, barrier: NodeBarrier) -> int:
    case_file = options.run_dir / "case.json"
    if not case_file.is_file():
        raise UsageError(
            f"{options.run_dir} holds no run to restart: run python -m tasks.train with it first"
        )
    if barrier.first and (options.run_dir / "phase2").exists():
        raise UsageError(f"{options.run_dir} was already restarted: remove its phase2 folder to do it again")
    setup = prepare(options, barrier.nodes)
    if setup.case.test_type != "ckpt-resume":
        print(f"{setup.case.name} is of type {setup.case.test_type}: there is nothing to restart")
        return PASSED
    phase.check_same_run(setup)
    iteration = phase.resume_iteration(setup.case)
    saved = phase.identity_of(setup)  # of phase 1, before the restart changes flags
    if setup.trainer.own:
        checkpoints.check(setup.run_dir / "checkpoints", iteration, saved)
    else:
        checkpoints.check_of_megatron_lm(setup.run_dir / "checkpoints", iteration)
    check_space(setup.run_dir)
    phase.run_phase(setup.restarted(), 2, barrier, load_iteration=iteration, expected=saved)
    return PASSED


if __name__ == "__main__":
    exit_with(functools.partial(run_to_end, main))
