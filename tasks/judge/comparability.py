"""Comparison of two fingerprints: the fields that differ, and whether the check can still be exact."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.judge.rows import CHECK_APPROXIMATE, CHECK_EXACT, EXACT, GOLDEN, REGRESSION, RESTART, Reason, Row
from tasks.judge.tolerances import Basis
from tasks.records.fingerprint import CONFIGURATION, FieldChange, between_phases, changes, short


def basis(
    golden: Mapping[str, object] | None,
    actual: Mapping[str, object] | None,
    *,
    deterministic: bool = True,
    generic: bool = False,
    full_precision: bool = True,
) -> Basis:
    """The check of deterministic metrics: exact or approximate, and the reason.

    A card at full precision is compared exactly even without its provenance; one rounded to 5 decimals,
    without a fingerprint (Megatron-LM's own), approximately.
    """
    known = bool(golden and actual)
    same_processor = known and golden.get("cpu") == actual.get("cpu")
    if generic:
        reason = "the card is generic, not of this platform"
    elif not deterministic:
        reason = "the run is not deterministic (no --deterministic-mode)"
    elif not known and full_precision:
        return Basis(check=CHECK_EXACT, reason="full precision", same_processor=same_processor)
    elif not known:
        side = "golden card" if not golden else "actual values"
        reason = f"the {side} came without a fingerprint"
    else:
        reason = _excuse(changes(golden, actual))
    check = CHECK_APPROXIMATE if reason else CHECK_EXACT
    return Basis(check=check, reason=reason or "fingerprints agree", same_processor=same_processor)


def _excuse(found: list[FieldChange]) -> str:
    """The reason to expect small differences, or an empty text."""
    if any(change.configuration for change in found):
        return ""
    return ", ".join(str(change) for change in found if change.software_or_hardware and change.influence)


def phases_row(run: Mapping[str, object], phases: list[object], *, other_layout: bool) -> Row:
    """The row that passes if all phases ran in the environment of the run. ``phases``: fingerprints."""
    name = "same environment"
    if not all(isinstance(phase, Mapping) and phase for phase in phases):
        return Row.missing(RESTART, name, Reason.NO_FINGERPRINT)
    found = [
        str(change) for phase in phases for change in between_phases(run, phase, other_layout=other_layout)
    ]
    row = Row(comparison=RESTART, metric=name, verdict=EXACT)
    return row.because(REGRESSION, Reason.OTHER_ENVIRONMENT, changes=", ".join(found)) if found else row


def configuration_rows(golden: Mapping[str, object] | None, actual: Mapping[str, object] | None) -> list[Row]:
    """A failing row for each digest (case, corpus) that differs between card and run."""
    if not golden or not actual:
        return []
    return [
        Row(
            comparison=GOLDEN,
            metric=f"digest: {change.field}",
            golden=short(change.golden),
            actual=short(change.actual),
            verdict=REGRESSION,
            reason=Reason.OTHER_CONFIGURATION if change.golden else Reason.UNKNOWN_CONFIGURATION,
            details={"what": CONFIGURATION[change.field]},
        )
        for change in changes(golden, actual)
        if change.configuration
    ]
