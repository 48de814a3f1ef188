"""Step 1: train a case from its first iteration to its last, saving checkpoints on the way.

``python -m tasks.train CASE --run-dir DIR`` writes DIR/case.json, DIR/phase1/, DIR/checkpoints/,
DIR/actual_phase1.json and DIR/phase1.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools

from tasks import frozen, phase
from tasks.exits import PASSED, UsageError, exit_with
from tasks.launch import run_to_end


def main(words: list[str] | None = None) -> int:
    """Train; returns ``PASSED`` or raises a ``TaskError``."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.train", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    phase.add_options(parser)
    parser.add_argument(
        "--from-start",
        action="store_true",
        help="train a case of type frozen-resume from its first iteration, to make its checkpoint anew",
    )
    options = parser.parse_args(words)
    if (options.run_dir / "case.json").exists():
        raise UsageError(f"{options.run_dir} already holds a run: choose another --run-dir, or remove it")
    setup = phase.prepare(options)
    load_iteration = None
    if setup.case.test_type == frozen.TYPE and not options.from_start:
        checkpoint = frozen.check(setup.case, setup.platform.name)
        load_iteration = frozen.iteration_of(checkpoint)
        setup = dataclasses.replace(setup, load_from=checkpoint)
    phase.check_space(setup.run_dir)
    if setup.load_from:
        frozen.take_along(setup.load_from, setup.run_dir)
    phase.write_case_file(setup)
    phase.run_phase(setup, 1, load_iteration=load_iteration)
    return PASSED


if __name__ == "__main__":
    exit_with(functools.partial(run_to_end, main))
