"""Every case that fits this machine, one after the other or several at once: ``python -m tasks.regress``.

It takes the options of ``nox -s regress --``, and goes on after a failure. What came out is in the table at
the end and in ``regress.json``, of which ``--rerun-failed`` makes its choice.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import sys

from tasks.cases import names, quarantine
from tasks.suite import history, jobs, listing, outcomes
from tasks.suite.fork_server import SharedParent
from tasks.suite.history import Record
from tasks.suite.options import read_suite_options
from tasks.suite.outcomes import ENDED, RUNNING, SKIPPED, Outcome
from tasks.suite.steps import case_steps
from tasks.util.exits import PASSED, UsageError, exit_with, run_to_end


def main(words: list[str] | None = None) -> int:
    """Run the cases, print the table.

    Raises:
        UsageError: options that do not go together, no such case, a quarantine that cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tasks.regress", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    options = read_suite_options(parser, sys.argv[1:] if words is None else words)
    today = datetime.date.today()
    chosen = history.select(names.case_names(), options)
    if not chosen:
        print(f"all cases of {history.path_for(options)} passed: nothing to run again")
        return PASSED
    planned = [Outcome(case=case, quarantine=quarantine.read(names.file_of(case), today)) for case in chosen]
    path = history.path_for(options) if options.nodes.first else None
    if path and options.run_dir and path.exists() and not options.rerun_failed:
        raise UsageError(
            f"{path}: is the record of an earlier regress: choose another --run-dir, or run what failed there"
            " again, --rerun-failed"
        )
    earlier = history.read(path) if options.rerun_failed else ()
    here = history.surroundings(options)
    record = Record(path, planned, earlier=earlier, today=today, passed_with=here)
    try:
        _run(chosen, options, record, today)
    finally:
        record.close()
        print(outcomes.table(record.outcomes, today), flush=True)
    return outcomes.exit_code(record.outcomes, today, require=options.require)


def _run(cases: list[str], options: argparse.Namespace, record: Record, today: datetime.date) -> None:
    waiting = []
    for case in cases:
        if reason := listing.reason_to_skip(case):
            print(f"{case}: skipped, since {reason}", flush=True)
            record.note(case, state=SKIPPED, reason=reason)
        else:
            waiting.append(case)
    parent = SharedParent(waiting, options)
    parent.import_once()

    def job_of(case: str) -> jobs.Job:
        run_dir = outcomes.run_directory(case, options)
        return jobs.Job(
            case=case,
            steps=case_steps(case, options, run_dir),
            run_dir=run_dir,
            quiet=options.jobs > 1,
            start=functools.partial(parent.start, case),
        )

    def began(job: jobs.Job) -> None:
        record.note(job.case, state=RUNNING, run_dir=job.run_dir)
        print(f"{job.case}: begun, kept in {job.run_dir}", flush=True)

    def ended(job: jobs.Job) -> bool:
        job.show_output()
        outcome = record.note(job.case, state=ENDED, exit_code=job.exit_code, seconds=job.seconds)
        code = f" (exit code {job.exit_code})" if job.exit_code else ""
        print(f"{job.case}: {outcome.verdict(today)}{code} after {job.seconds:.0f} s", flush=True)
        return not (options.fail_fast and outcome.failed(today))

    jobs.run([job_of(case) for case in waiting], options.jobs, began=began, ended=ended)


if __name__ == "__main__":
    exit_with(functools.partial(run_to_end, main))
