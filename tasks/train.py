"""Step 1: train a case from its first iteration to its last, saving checkpoints on the way.

``python -m tasks.train CASE --run-dir DIR`` writes DIR/case.json, DIR/phase1/, DIR/checkpoints/,
DIR/actual_phase1.json and DIR/phase1.json.
"""

from __future__ import annotations

import argparse
import functools
import sys

from tasks import phase, retries
from tasks.exits import PASSED, UsageError, exit_with
from tasks.launch import run_to_end


def main(words: list[str] | None = None) -> int:
    """Train; returns ``PASSED`` or raises a ``TaskError``."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.train", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    phase.add_options(parser)
    options = parser.parse_args(words)
    if options.retries > 0:
        return retries.supervise(
            "train", words or sys.argv[1:], run_dir=options.run_dir, phase=1, retries=options.retries
        )
    if (options.run_dir / "case.json").exists():
        raise UsageError(f"{options.run_dir} already holds a run: choose another --run-dir, or remove it")
    setup = phase.prepare(options)
    phase.check_space(setup.run_dir)
    phase.write_case_file(setup)
    phase.run_phase(setup, 1)
    return PASSED


if __name__ == "__main__":
    exit_with(functools.partial(run_to_end, main))
