"""One case: train, restart, compare, report. ``python -m tasks.run CASE``, or ``--case-file PATH``."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from tasks.suite import dry_run, jobs
from tasks.suite.fork_server import ForkServer
from tasks.suite.options import read_case_options
from tasks.suite.steps import new_directory
from tasks.util.exits import MEANINGS, PASSED, exit_with, run_to_end


def main(argv: list[str] | None = None) -> int:
    """Run the steps one after the other; returns the exit code of the first one that failed.

    Raises:
        TaskError: bad usage, or a run directory that cannot be made.
    """
    options = read_case_options(sys.argv[1:] if argv is None else argv)
    case = _name(options)
    run_dir = options.run_dir or new_directory(case)
    if options.dry_run:
        plan = dry_run.plan(case, options, run_dir)
        for line in plan.lines:
            print(line)
        if plan.error:
            raise plan.error
        return PASSED
    server = ForkServer([case], options)
    server.import_once()
    job = jobs.job_of(case, options, run_dir, server, quiet=False)
    if code := jobs.run_alone(job):
        see = f"; see {run_dir}" if run_dir.exists() else ""  # bad usage ends before anything is written
        print(f"{case}: {MEANINGS[code]} (exit code {code}){see}", flush=True)
    return job.exit_code


def _name(options: argparse.Namespace) -> str:
    """The name of the case; for a file, the name of its folder."""
    if options.case:
        return options.case
    file: Path = options.case_file.resolve()
    return file.name if file.is_dir() else file.parent.name


if __name__ == "__main__":
    exit_with(functools.partial(run_to_end, main))
