"""The verdict on a finished run or on two cards: read, compare, explain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasks.judge import comparability, crash_evidence, explanation, megatron_policy, restart_evidence, strict
from tasks.judge.completeness import unlogged_rows
from tasks.judge.rows import CHECK_APPROXIMATE, CHECK_EXACT, GOLDEN, MISSING, RESTART, RESUME, Reason, Row
from tasks.judge.strict import NO_LIMIT
from tasks.judge.tolerances import Basis
from tasks.records import card_store
from tasks.records.card import Card
from tasks.records.fingerprint import FieldChange
from tasks.records.run import Run, read_run
from tasks.util.exits import MISMATCH, PASSED, USAGE, UsageError
from tasks.util.files import REPOSITORY

STRICT, MEGATRON = "strict", "megatron"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a comparison. ``steps``: first and last, None for all. ``checks``: of policy megatron."""

    policy: str = STRICT
    steps: tuple[int, int] | None = None
    checks: tuple[str, ...] = (CHECK_EXACT, CHECK_APPROXIMATE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """All data of a report. ``error``: bad input, one line. ``golden_file``: a card given by its path."""

    title: str
    policy: str
    rows: list[Row] = field(default_factory=list)
    steps: tuple[int, int] | None = None
    checks: tuple[str, ...] = ()
    changes: list[FieldChange] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    run: Run | None = None
    golden_card: Card | None = None
    golden_file: Path | None = None
    actual_card: Card | None = None

    @property
    def passed(self) -> bool:
        return self.error is None and strict.all_passed(self.rows)

    @property
    def exit_code(self) -> int:
        """A mismatch takes precedence over an input error that prevented part of the comparison."""
        compared = [
            row
            for row in self.rows
            if not (self.error and row.verdict == MISSING and row.comparison == GOLDEN)
        ]
        if not all(row.passed for row in compared):
            return MISMATCH
        if self.error:
            return USAGE
        return PASSED if self.passed else MISMATCH


def judge_run(
    run_dir: Path,
    *,
    case_name: str | None = None,
    golden_file: Path | None = None,
    root: Path = REPOSITORY,
    options: Options | None = None,
) -> Verdict:
    """Compare phase 1 with the golden card and phase 2 with phase 1, and check the evidence of the restart.

    Raises:
        UsageError: no such run, or a malformed file in it. A card that is missing or malformed is the
            verdict's error.
    """
    options = options or Options()
    run = read_run(run_dir, case_name=case_name)
    _refuse_steps_without_restart(run, options)
    own_rows = restart_and_resume_rows(run, options)
    verdict = Verdict(
        title=f"{run.case_name} · {run.environment} · {run.platform} · run {run.run_id}",
        policy=options.policy,
        steps=options.steps,
        checks=options.checks,
        golden_file=golden_file,
        run=run,
        actual_card=run.actual1,
    )
    try:
        card, generic = card_store.card_of(run, golden_file, root, strict=options.policy == STRICT)
        provenance = card_store.read_provenance(card.path) or {}
        recorded, _ = card_store.origin(card.path)
    except UsageError as error:
        return _without_card(verdict, own_rows, error)
    full = card_store.any_full(card)
    basis = comparability.basis(
        recorded, run.fingerprint, deterministic=run.deterministic, generic=generic, full_precision=full
    )
    basis = dataclasses.replace(basis, restarted=run.crashes)
    rows = []
    if options.policy == STRICT:
        rows += comparability.configuration_rows(recorded, run.fingerprint)
        if not recorded and golden_file is None and full and not generic:
            rows.append(Row.missing(GOLDEN, "provenance", Reason.NO_PROVENANCE))
    compared, apart = crash_evidence.without_first_steps(run, card)
    actual, _ = crash_evidence.without_first_steps(run, run.actual1)
    rows += _compared(GOLDEN, compared, actual, basis, options, metrics=run.metrics, platform=run.platform)
    rows += own_rows
    changes = comparability.changes(recorded, run.fingerprint) if recorded else []
    return dataclasses.replace(
        verdict,
        rows=rows,
        changes=changes,
        sentences=explanation.explain(rows, golden=card, run=run, changes=changes),
        notes=_notes(card, provenance, run, rows) + apart + _approximate(basis, options),
        golden_card=card,
    )


def _without_card(verdict: Verdict, own_rows: list[Row], error: UsageError) -> Verdict:
    """The verdict without a golden card: for Megatron-LM's program the restart decides, ours fails."""
    subject = verdict.run.subject
    resumed = any(row.comparison == RESUME for row in own_rows)
    if subject and isinstance(error, card_store.NoGoldenCard) and resumed:
        note = f"no golden card of {subject}: only the restart was judged; --baseline PATH compares"
        verdict = dataclasses.replace(verdict, rows=own_rows, notes=[note])
    else:
        rows = [Row.missing(GOLDEN, "golden card", Reason.NO_CARD), *own_rows]
        verdict = dataclasses.replace(verdict, rows=rows, error=str(error))
    sentences = explanation.explain(verdict.rows, golden=None, run=verdict.run, changes=[])
    return dataclasses.replace(verdict, sentences=sentences)


def judge_pair(golden_file: Path, actual_file: Path, *, options: Options | None = None) -> Verdict:
    """Compare any two cards.

    Raises:
        UsageError: a malformed card; no common metric; no common step; a header that contradicts the values
            (strict).
    """
    options = options or Options()
    card, actual = card_store.read_card(golden_file), card_store.read_card(actual_file)
    _refuse_nothing_common(card, actual, f"{golden_file} and {actual_file}", options)
    card, actual = _restricted(card, options), _restricted(actual, options)
    (recorded, platform), (facts, actual_platform) = map(card_store.origin, (golden_file, actual_file))
    basis = comparability.basis(recorded, facts, full_precision=card_store.any_full(card))
    rows = comparability.configuration_rows(recorded, facts) if options.policy == STRICT else []
    platform = platform or actual_platform
    rows += _compared(GOLDEN, card, actual, basis, options, metrics=None, platform=platform)
    gaps = [row for row in rows if row.verdict == MISSING and row.first_step is not None]
    error = None
    if options.policy == STRICT and gaps:
        error = (
            f"{actual_file}: {gaps[0].metric!r}: {gaps[0].note}, compared with {golden_file}; "
            "restrict the comparison with --steps A-B"
        )
    changes = comparability.changes(recorded, facts) if recorded and facts else []
    return Verdict(
        title=f"{golden_file.name} · {actual_file.name}",
        policy=options.policy,
        steps=options.steps,
        rows=rows,
        changes=changes,
        sentences=explanation.explain(rows, golden=card, actual=actual, changes=changes),
        notes=_approximate(basis, options),
        error=error,
        golden_card=card,
        actual_card=actual,
    )


def _refuse_nothing_common(card: Card, actual: Card, files: str, options: Options) -> None:
    common = [name for name in card.metrics if name in actual.metrics]
    if not common:
        raise UsageError(f"{files} have no common metric ({_names(card)}; {_names(actual)})")
    if options.policy != STRICT:
        return
    card_store.refuse_header_faults(card, actual)
    pairs = [(card.metrics[name].steps, actual.metrics[name].steps) for name in common]
    if not any(np.intersect1d(*pair).size for pair in pairs):
        raise UsageError(f"{files}: {common[0]!r} and other metrics have no common step")


def restart_and_resume_rows(run: Run, options: Options) -> list[Row]:
    """Rows that need no card: phase 2 against phase 1, and the evidence of the restart."""
    return _resume_rows(run, options) + _restart_rows(run, options)


def _compared(
    comparison: str,
    card: Card,
    actual: Card,
    basis: Basis,
    options: Options,
    *,
    metrics: tuple[str, ...] | None,
    platform: str | None,
) -> list[Row]:
    firsts = [int(metric.steps[0]) for metric in card.metrics.values() if metric.steps.size]
    begins = min(firsts, default=None)
    card, actual = _restricted(card, options), _restricted(actual, options)
    if options.policy == MEGATRON:
        return megatron_policy.judge_cards(comparison, card, actual, metrics=metrics, checks=options.checks)
    return strict.judge_cards(
        comparison,
        card,
        actual,
        metrics=metrics,
        basis=basis,
        platform=platform,
        begins=begins,
    )


def _kept_rows(run: Run, options: Options) -> list[Row]:
    """Rows of phase 1, resumed from a kept checkpoint, against the run that made the checkpoint."""
    loaded = restart_evidence.loaded_iteration(run.record1 or {})
    if run.origin is None or loaded is None:
        return _nothing_resumed(Reason.NOT_FROM_KEPT)
    basis = comparability.basis(run.origin.fingerprint, run.fingerprint, deterministic=run.deterministic)
    basis = dataclasses.replace(basis, only_the_model="the checkpoint was made by another run")
    first, second = run.origin.values.between(loaded + 1, NO_LIMIT), run.actual1
    if options.policy == MEGATRON:
        first, second = first.rounded(), second.rounded()
    return _compared(RESUME, first, second, basis, options, metrics=run.metrics, platform=run.platform)


def _resume_rows(run: Run, options: Options) -> list[Row]:
    if run.goes_on_from_kept:
        return _kept_rows(run, options)
    if run.crashes:
        return _twice_trained_rows(run, options)
    if not run.resumes:
        return []
    parts = {"phase2.json": run.record2, "actual_phase2.json": run.actual2}
    absent = [name for name, part in parts.items() if part is None]
    if absent:
        return _nothing_resumed(Reason.NO_PHASE_2, files=" and no ".join(absent))
    loaded = restart_evidence.loaded_iteration(run.record2)
    if loaded is None:
        return _nothing_resumed(Reason.NOTHING_RESUMED)
    first, second = run.actual1.between(loaded + 1, NO_LIMIT), run.actual2
    if options.policy == MEGATRON:
        first, second = first.rounded(), second.rounded().between(loaded + 1, NO_LIMIT)
    return _within_run(run, first, second, options, run.metrics)


def _nothing_resumed(reason: Reason, **details: object) -> list[Row]:
    return [Row.missing(RESUME, "all metrics", reason, check=CHECK_EXACT, **details)]


def _twice_trained_rows(run: Run, options: Options) -> list[Row]:
    pairs, missing = crash_evidence.twice_trained(run)
    if missing:
        return [missing]
    return [
        crash_evidence.named(row, index)
        for index, (first, second) in enumerate(pairs)
        for row in _within_run(run, first, second, options, None)
    ]


def _within_run(
    run: Run, first: Card, second: Card, options: Options, metrics: tuple[str, ...] | None
) -> list[Row]:
    """Rows of the same steps, trained twice in one run."""
    reason = "the run is not deterministic (no --deterministic-mode)"
    if run.changes_layout:
        reason = "the restart has another layout of ranks, which add up in another order"
    exact = run.deterministic and not run.changes_layout
    basis = Basis(
        check=CHECK_EXACT if exact else CHECK_APPROXIMATE,
        reason=reason,
        only_the_model="it depends on the layout of ranks, which changed" if run.changes_layout else "",
    )
    return _compared(RESUME, first, second, basis, options, metrics=metrics, platform=run.platform)


def _restart_rows(run: Run, options: Options) -> list[Row]:
    if options.policy == MEGATRON:
        return []
    tries = map(restart_evidence.failed_try_row, run.failed_tries)
    return [*unlogged_rows(run, options.steps), *_evidence_rows(run), *tries]


def _evidence_rows(run: Run) -> list[Row]:
    if run.record1 is None:
        return [Row.missing(RESTART, "phase 1", Reason.NO_PHASE_1)]
    if run.goes_on_from_kept:
        return restart_evidence.restart_rows(run.origin.record, run.record1) if run.origin else []
    if run.resumes:
        if run.record2 is None:
            return []
        rows = restart_evidence.layout_rows if run.changes_layout else restart_evidence.restart_rows
        phases = [record.get("fingerprint") for record in (run.record1, run.record2)]
        environment = comparability.phases_row(run.fingerprint, phases, other_layout=run.changes_layout)
        return [environment, *rows(run.record1, run.record2)]
    if run.crashes:
        return crash_evidence.crash_rows(run.record1, list(run.kills))
    return [restart_evidence.no_restart_row(run.record1)]


def _refuse_steps_without_restart(run: Run, options: Options) -> None:
    loaded = restart_evidence.loaded_iteration(run.record2 or {})
    if options.steps is None or loaded is None:
        return
    first, last = options.steps
    if last <= loaded or first > run.actual1.last_step:
        raise UsageError(
            f"--steps {first}-{last}: holds no step of the restart, {loaded + 1} to {run.actual1.last_step}"
        )


def _restricted(card: Card, options: Options) -> Card:
    return card.between(*options.steps) if options.steps else card


def _notes(card: Card, provenance: Mapping[str, object], run: Run, rows: list[Row]) -> list[str]:
    notes = [f"golden card: {card.path.name}"]
    recorded = provenance.get("card_sha256")
    if recorded and recorded != card_store.file_sha256(card.path):
        notes.append(f"{card.path.name} was edited after it was recorded")
    compared = {row.metric for row in rows if row.comparison == GOLDEN}
    unknown = [name for name in run.actual1.metrics if name not in compared and name not in card.metrics]
    if unknown:
        notes.append(f"not compared, the card has no values: {', '.join(unknown)}")
    notes += [f"{row.metric}: {row.note}" for row in map(restart_evidence.failed_try_row, run.failed_tries)]
    if plugins := ", ".join(Path(path).name for path in run.rank_plugins):
        notes.append(f"trained with rank plugins: {plugins}")
    return notes


def _approximate(basis: Basis, options: Options) -> list[str]:
    if options.policy == MEGATRON or basis.check == CHECK_EXACT:
        return []
    return [f"compared approximately: {basis.reason}"]


def _names(card: Card) -> str:
    return ", ".join(list(card.metrics)[:6]) or "none"
