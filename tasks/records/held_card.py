"""The golden card that a run is held to, and where a card came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.records import card_store
from tasks.records.card import Card, header_fault
from tasks.records.run import Run
from tasks.util.exits import UsageError
from tasks.util.files import mapping


def card_of(run: Run, golden_file: Path | None, root: Path, *, strict: bool) -> tuple[Card, bool]:
    """The card at ``golden_file``, else that of the run's environment and platform; and whether it is a
    generic one.

    Raises:
        UsageError: no card, a malformed one, or what the run itself measured.
    """
    if golden_file is not None:
        own = run.directory / "actual_phase1.json"
        if golden_file.exists() and golden_file.samefile(own):
            raise UsageError(
                f"{golden_file}: is what this run measured; a run equals itself, that shows nothing"
            )
        found = card_store.FoundCard(golden_file, generic=False)
    else:
        found = card_store.find_card(root, run.card_name, run.environment, run.platform, run.goldens)
    card = card_store.read_card(found.path)
    if strict:
        refuse_header_faults(card)
    if not card.metrics:
        raise UsageError(f"{found.path}: holds no metric")
    return card, found.generic


def refuse_header_faults(*cards: Card) -> None:
    """Errors: ``UsageError`` for a card whose header promises what its values do not keep."""
    for card in cards:
        for name, metric in card.metrics.items():
            fault = header_fault(metric)
            if fault:
                raise UsageError(f"{card.name}: {name!r}: {fault}")


def origin(path: Path) -> tuple[Mapping[str, object], str | None]:
    """Fingerprint and platform of a card: from its provenance, or from the run that it lies in."""
    provenance = card_store.read_provenance(path)
    beside = path.with_name("case.json")
    if provenance is None and beside.exists():
        provenance = card_store.read_json_object(beside)
    facts = mapping((provenance or {}).get("fingerprint"))
    platform = (provenance or {}).get("platform") or facts.get("platform")
    return facts, platform if isinstance(platform, str) else None


def any_full(card: Card) -> bool:
    """Whether values of a card are kept as they were measured."""
    return any(metric.full_precision for metric in card.metrics.values())
