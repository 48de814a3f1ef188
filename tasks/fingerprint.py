"""Two fingerprints compared: what differs, and whether equality to the last bit may still be asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.tolerances import GOLDEN, RESTART
from tasks.verdict import (
    CHECK_APPROXIMATE,
    CHECK_EQUAL,
    CHECK_EXACT,
    EXACT,
    MISSING,
    REGRESSION,
    Basis,
    Row,
)

# Measured: equal to the last bit across x86-64 processors with the portable settings. What a commit changes
# in the results is what the comparison is there to find.
WITHOUT_INFLUENCE = frozenset({"cpu", "commit", "subject", "megatron-lm"})
# Another configuration or other data: no comparison of values says anything, so the comparison fails.
CONFIGURATION = {"case": "configuration", "corpus": "corpus"}
# Other software or hardware may round otherwise: inside tolerance is a drift, not a regression.
SURROUNDINGS = frozenset(
    {"environment", "platform", "python", "gpu", "driver", "nccl", "cuda", "cudnn", "ranks per gpu"}
)
# What a restart may change: the layout of its ranks belongs to the case.
OF_THE_RESTART = frozenset({"case", "ranks per gpu"})
_VERSION = re.compile(r"\d+\.\d+[\w.+-]*")


@dataclass(frozen=True)
class Change:
    """A field that differs. None: that side does not have it."""

    field: str
    golden: str | None
    actual: str | None

    @property
    def configuration(self) -> bool:
        return self.field in CONFIGURATION

    @property
    def surroundings(self) -> bool:
        """Whether it excuses a small difference. An unknown field never does, unless it holds a version."""
        if self.field in SURROUNDINGS:
            return True
        known = [value for value in (self.golden, self.actual) if value is not None]
        return not self.configuration and all(_VERSION.fullmatch(value) for value in known)

    def __str__(self) -> str:
        return f"{self.field} {short(self.golden)} → {short(self.actual)}"


def changes(golden: Mapping[str, object], actual: Mapping[str, object]) -> list[Change]:
    """All fields that differ, those with influence first, in order of name."""
    found = [
        Change(field, _text(golden.get(field)), _text(actual.get(field)))
        for field in sorted({*golden, *actual})
        if golden.get(field) != actual.get(field)
    ]
    return sorted(found, key=lambda change: change.field in WITHOUT_INFLUENCE)


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


def between_phases(
    first: Mapping[str, object], second: Mapping[str, object], *, other_layout: bool = True
) -> list[Change]:
    """What a phase must have in common with the run that it is of, and has not. ``other_layout``: the restart
    may have other flags and ranks.
    """
    return [
        change
        for change in changes(first, second)
        if (change.surroundings or change.configuration)
        and not (other_layout and change.field in OF_THE_RESTART)
    ]


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


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def short(value: str | None) -> str:
    """A field's value to be read: of a digest the beginning, and what was put behind it (``-dirty``)."""
    if value is None:
        return "(none)"
    digest = re.match(r"[0-9a-f]{32,}", value)
    return f"{value[:12]}…{value[digest.end() :]}" if digest else value
