"""Step 1: train a case from its first iteration to its last, saving checkpoints on the way.

``python -m tasks.train CASE --run-dir DIR`` writes DIR/case.json, DIR/phase1/, DIR/checkpoints/,
DIR/actual_phase1.json and DIR/phase1.json.
"""

from __future__ import annotations

import argparse
import functools

from tasks import nodes, phase
from tasks.exits import PASSED, UsageError, exit_with
from tasks.launch import run_to_end
from tasks.meeting import Meeting, attend


def main(words: list[str] | None = None) -> int:
    """Train; returns ``PASSED`` or raises a ``TaskError``."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.train", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    phase.add_options(parser)
    options = parser.parse_args(words)
    among = nodes.read(options)
    if among.first and (options.run_dir / "case.json").exists():
        raise UsageError(f"{options.run_dir} already holds a run: choose another --run-dir, or remove it")
    return attend(among, options.run_dir, "train", functools.partial(_train, options))


def _train(options: argparse.Namespace, meeting: Meeting) -> int:
    setup = phase.prepare(options, meeting.nodes)
    phase.check_space(setup.run_dir)
    if meeting.first:
        phase.write_case_file(setup)
    phase.run_phase(setup, 1, meeting)
    return PASSED


if __name__ == "__main__":
    exit_with(functools.partial(run_to_end, main))
