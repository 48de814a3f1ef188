"""Checks before a card is recorded: identical runs of the case as it is now, with an exact restart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tasks.cases.loader import load_case
from tasks.cases.metrics import Shown, metric_named
from tasks.cases.names import case_names
from tasks.judge.compare import compare
from tasks.judge.restart_evidence import processes_of
from tasks.judge.rows import CHECK_EXACT, GOLDEN
from tasks.judge.run import Options, restart_and_resume_rows
from tasks.judge.strict import judge_cards, stays_at_0, strict_row
from tasks.judge.tolerances import Basis, rule_for
from tasks.records.card import Card, header_fault
from tasks.records.run import Run
from tasks.util.exits import UsageError

RANKS = 8  # of a run without recorded processes
_BASIS = Basis(check=CHECK_EXACT, reason="runs of one kind")
_OTHER_PROCESSOR = Basis(check=CHECK_EXACT, reason="a card and a later run", same_processor=False)


def refuse_borrowed_card(case: str, golden: str) -> None:
    """Refuse a case without golden cards of its own.

    Raises:
        UsageError: the case is compared with the cards of another one.
    """
    if golden != case:
        raise UsageError(
            f"{case} is compared with the golden cards of {golden} (GOLDEN_CARD): record that one"
        )


def refuse_unfit_runs(runs: list[Run]) -> None:
    """Refuse runs that differ, or whose restart was not exact.

    Raises:
        UsageError: names the run and the reason.
    """
    first = runs[0]
    refuse_borrowed_card(first.case_name, first.golden_case)
    directories = [run.directory.resolve() for run in runs]
    begun = [(run.run_id, run.started) for run in runs]
    # Two runs never take exactly the same time.
    seconds = [json.dumps(run.record1["seconds"]) for run in runs if run.record1 and "seconds" in run.record1]
    if any(len(set(each)) != len(each) for each in (directories, begun, seconds)):
        raise UsageError("--from-run: the same run is given twice; a run equals itself, that shows nothing")
    for run in runs:
        if run.rank_plugins:
            raise UsageError(
                f"{run.directory}: trained with a rank plugin ({run.rank_plugins[0]}); record a run without"
            )
        _refuse_bad_values(run)
        _refuse_failed_restart(run)
    for run in runs[1:]:
        for name in ("environment", "platform", "fingerprint", "test_type"):
            if getattr(run, name) != getattr(first, name):
                raise UsageError(
                    f"{run.directory}: its {name} is not that of {first.directory}; record runs of one kind"
                )
        if run.actual1.metrics.keys() != first.actual1.metrics.keys():
            raise UsageError(f"{run.directory}: other metrics than {first.directory}")
        for name, metric in run.actual1.metrics.items():
            reference = first.actual1.metrics[name]
            if not np.array_equal(metric.steps, reference.steps):
                raise UsageError(f"{run.directory}: {name!r}: other steps than {first.directory}")
            if metric_named(name).kind.deterministic and (run.deterministic or first.deterministic):
                _refuse_difference(run, first, name)
            elif not isinstance(rule_for(name, platform=run.platform, basis=_BASIS), Shown):
                _refuse_beyond_tolerance(run, first, name)


def refuse_another_configuration(run: Run, root: Path) -> None:
    """Refuse a run of another configuration than the case has now: nobody could reproduce its values.

    Raises:
        UsageError: the run was trained with ``--set`` or on other data, or the case was changed since.
    """
    if run.goldens or run.case_name not in case_names(root):  # a file of Megatron-LM's
        return
    ranks = len(processes_of(run.record1 or {})) or RANKS
    case = load_case(run.case_name, platform_name=run.platform, root=root, world_size=ranks)
    same = run.fingerprint.get("case") == case.digest and run.test_type == case.test_type
    if not same or not (run.subject or run.metrics == case.metrics):
        raise UsageError(
            f"{run.directory}: was trained with another configuration than {case.path} has now: train it"
            " again (without --set), or change the case first"
        )
    if case.corpus and run.fingerprint.get("corpus") != case.corpus.sha256:
        raise UsageError(
            f"{run.directory}: was trained on other data than CORPUS of {case.path}: train it again (without"
            " --data-path)"
        )


def refuse_other_values(
    path: Path, card: Card | None, new: Card, metrics: list[str], *, platform: str
) -> None:
    """Refuse to write only ``metrics`` where there is no card, or where any other metric does not match it.

    Raises:
        UsageError: names what is missing, or the first metric that differs.
    """
    if card is None:
        raise UsageError(f"--metric: there is no {path.name} to update; record all of it")
    for name in metrics:
        if name not in new.metrics:
            raise UsageError(
                f"--metric {name}: the run has no such metric. Metrics: {', '.join(new.metrics)}"
            )
    rows = judge_cards(
        GOLDEN, card, new, metrics=tuple(new.metrics), platform=platform, basis=_OTHER_PROCESSOR
    )
    for row in rows:
        if row.metric not in metrics and not row.passed:
            raise UsageError(
                f"--metric: {row.metric!r} is not that of {path.name} ({row.verdict}); only the metrics named"
                " may change"
            )


def _refuse_failed_restart(run: Run) -> None:
    failed = [row for row in restart_and_resume_rows(run, Options()) if not row.passed]
    if failed:
        row = failed[0]
        where = f" at step {row.first_step}" if row.first_step is not None else ""
        raise UsageError(
            f"{run.directory}: {row.comparison}: {row.metric}{where}: {row.verdict}; "
            f"a run whose restart was not exact becomes no card. {row.note}".rstrip(". ")
        )


def _refuse_bad_values(run: Run) -> None:
    for name in run.metrics:
        if name not in run.actual1.metrics:
            raise UsageError(f"{run.directory}: the case's metric {name!r} is not among its values")
    wanted = run.model_args["--train-iters"]
    for name, metric in run.actual1.metrics.items():
        fault = header_fault(metric)
        if metric.end_step != wanted:
            fault = f"ends at step {metric.end_step}, the case trains {wanted}"
        kind = metric_named(name).kind  # also of what is only shown on this platform
        if fault is None and not np.isfinite(metric.values).all():
            step = int(metric.steps[~np.isfinite(metric.values)][0])
            fault = f"step {step} is no finite number"
        elif fault is None and (
            (kind.positive and (metric.values <= 0).any()) or (kind.grows and stays_at_0(metric))
        ):
            fault = "is 0 where nothing was measured"
        if fault:
            raise UsageError(f"{run.actual1.name}: {name!r}: {fault}")


def _refuse_difference(run: Run, first: Run, name: str) -> None:
    differences = compare(first.actual1.metrics[name], run.actual1.metrics[name])
    index = differences.first()
    if index is not None:
        sides = differences.golden, differences.actual
        values = " and ".join(repr(float(side.values[index])) for side in sides)
        raise UsageError(
            f"{run.directory}: {name!r} differs from {first.directory} "
            f"at step {differences.steps[index]} ({values}); "
            "runs that are not deterministic become no card"
        )


def _refuse_beyond_tolerance(run: Run, first: Run, name: str) -> None:
    """Compare memory and times of two runs in both directions: a card of their median must pass each."""
    for golden, actual in ((first, run), (run, first)):
        values = golden.actual1.metrics[name], actual.actual1.metrics[name]
        row = strict_row(GOLDEN, name, *values, platform=run.platform, basis=_BASIS)
        if not row.passed:
            where = f" at step {row.worst_step}" if row.worst_step is not None else ""
            raise UsageError(
                f"{run.directory}: {name!r} is not that of {first.directory}{where} ({row.golden} and"
                f" {row.actual}): record runs that agree"
            )
