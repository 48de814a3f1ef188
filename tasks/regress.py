"""All cases supported here, one after the other or several at once: ``python -m tasks.regress``.

A failed case does not stop the others. The table at the end and ``regress.json`` hold the outcome of each
case; ``--rerun-failed`` selects from that file.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import sys

from tasks.cases import names, quarantine
from tasks.suite import dry_run, history, jobs, listing, outcomes
from tasks.suite.fork_server import ForkServer
from tasks.suite.history import Record
from tasks.suite.options import read_suite_options
from tasks.suite.outcomes import ENDED, RUNNING, SKIPPED, CaseResult
from tasks.util.exits import PASSED, UsageError, exit_with, run_to_end


def main(argv: list[str] | None = None) -> int:
    """List the cases, print the dry run, or run the cases and print the table.

    Raises:
        UsageError: conflicting options, an unknown case, an invalid quarantine.
    """
    options = read_suite_options(sys.argv[1:] if argv is None else argv)
    today = datetime.date.today()
    chosen = history.select(names.case_names(), options)
    if options.list:
        print(listing.listing(chosen, today, as_json=options.json))
    elif not chosen:
        print(f"all cases of {history.path_for(options)} passed: there is nothing to run again")
    elif options.dry_run:
        return _print_plans(chosen, options)
    else:
        return _run_and_record(chosen, options, today)
    return PASSED


def _print_plans(cases: list[str], options: argparse.Namespace) -> int:
    """Print what would run; returns the exit code of the first case that would end with an error."""
    codes = []
    for case in cases:
        if reason := listing.reason_to_skip(case):
            print(f"{case}: would be skipped, since {reason}")
            continue
        plan = dry_run.plan(case, options, outcomes.run_directory(case, options))
        print("\n".join([f"{case}:", *plan.lines]))
        if plan.error:
            print(f"error: {plan.error}")
            codes.append(plan.error.exit_code)
    return codes[0] if codes else PASSED


def _run_and_record(chosen: list[str], options: argparse.Namespace, today: datetime.date) -> int:
    held = {case: quarantine.read(names.file_of(case), today) for case in chosen}
    planned = [CaseResult(case=case, quarantine=held[case]) for case in chosen]
    path = history.path_for(options) if options.nodes.first else None
    if path and options.run_dir and path.exists() and not options.rerun_failed:
        raise UsageError(
            f"{path}: is the record of an earlier regress: choose another --run-dir, or run what failed there"
            " again, --rerun-failed"
        )
    earlier = history.read(path) if options.rerun_failed else ()
    conditions = history.run_conditions(options)
    record = Record(path, planned, earlier=earlier, today=today, passed_with=conditions)
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
    server = ForkServer(waiting, options)
    server.import_once()

    def began(job: jobs.Job) -> None:
        record.note(job.case, state=RUNNING, run_dir=job.run_dir)
        print(f"{job.case}: begun, kept in {job.run_dir}", flush=True)

    def ended(job: jobs.Job) -> bool:
        job.show_output()
        outcome = record.note(job.case, state=ENDED, exit_code=job.exit_code, seconds=job.seconds)
        code = f" (exit code {job.exit_code})" if job.exit_code else ""
        print(f"{job.case}: {outcome.verdict(today)}{code} after {job.seconds:.0f} s", flush=True)
        return not (options.fail_fast and outcome.failed(today))

    quiet = options.jobs > 1
    directories = {case: outcomes.run_directory(case, options) for case in waiting}
    all_jobs = [jobs.job_of(case, options, directories[case], server, quiet=quiet) for case in waiting]
    jobs.run(all_jobs, options.jobs, began=began, ended=ended)


if __name__ == "__main__":
    exit_with(functools.partial(run_to_end, main))
