"""Two fingerprints compared: what differs, and whether equality to the last bit may still be asked for."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.judge.strict import (
    CHECK_APPROXIMATE,
    CHECK_EQUAL,
    CHECK_EXACT,
    EXACT,
    MISSING,
    REGRESSION,
    Basis,
    Row,
)
from tasks.judge.tolerances import GOLDEN, RESTART
from tasks.records.fingerprint import CONFIGURATION, Change, between_phases, changes, short


def basis(
    golden: Mapping[str, object] | None,
    actual: Mapping[str, object] | None,
    *,
    deterministic: bool = True,
    generic: bool = False,
    full_precision: bool = True,
) -> Basis:
    """Whether deterministic metrics are held to equality.

    A card at full precision was recorded to be equalled: without its provenance it still is. A card rounded
        to 5 decimals that says nothing of its surroundings (Megatron-LM's own) is held to the approximate
        checks.
    """
    known = bool(golden and actual)
    same_processor = known and golden.get("cpu") == actual.get("cpu")
    if generic:
        reason = "generic card, of no platform in particular"
    elif not deterministic:
        reason = "the run is not deterministic (no --deterministic-mode)"
    elif not known and full_precision:
        return Basis(check=CHECK_EXACT, reason="full precision", same_processor=same_processor)
    elif not known:
        side = "golden card" if not golden else "actual values"
        reason = f"the {side} came without a fingerprint"
    else:
        reason = _excuse(changes(golden, actual))
    if reason:
        return Basis(check=CHECK_APPROXIMATE, reason=reason, same_processor=same_processor)
    return Basis(check=CHECK_EXACT, reason="fingerprints agree", same_processor=same_processor)


def _excuse(found: list[Change]) -> str:
    """Why small differences are to be expected, or an empty text."""
    if any(change.configuration for change in found):
        return ""
    return ", ".join(str(change) for change in found if change.surroundings)


def phases_row(run: Mapping[str, object], phases: list[object], *, other_layout: bool) -> Row:
    """Whether all phases ran where the run began. ``phases``: their fingerprints, from their records."""
    known = all(isinstance(phase, Mapping) and phase for phase in phases)
    parted = [
        change
        for phase in (phases if known else [])
        for change in between_phases(run, phase, other_layout=other_layout)
    ]
    note = ", ".join(map(str, parted)) if known else "not recorded; run tasks.resume again"
    return Row(
        comparison=RESTART,
        metric="surroundings",
        check=CHECK_EQUAL,
        verdict=(REGRESSION if parted else EXACT) if known else MISSING,
        passed=known and not parted,
        note=note,
    )


def provenance_row() -> Row:
    """The row that fails where a card of ours has lost its side file."""
    return Row(
        comparison=GOLDEN,
        metric="provenance",
        check=CHECK_EQUAL,
        verdict=MISSING,
        passed=False,
        note="the card's .provenance.json is gone: check it out again, or record a new card",
    )


def configuration_rows(golden: Mapping[str, object] | None, actual: Mapping[str, object] | None) -> list[Row]:
    """A failing row for each digest (case, corpus) of the card that is not the run's."""
    if not golden or not actual:
        return []
    return [
        Row(
            comparison=GOLDEN,
            metric=f"digest: {change.field}",
            check=CHECK_EQUAL,
            golden=short(change.golden),
            actual=short(change.actual),
            verdict=REGRESSION,
            passed=False,
            note=f"the card was recorded for another {CONFIGURATION[change.field]}"
            if change.golden
            else f"the card does not say for which {CONFIGURATION[change.field]} it was recorded",
        )
        for change in changes(golden, actual)
        if change.configuration
    ]
