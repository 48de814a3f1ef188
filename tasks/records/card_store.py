"""Golden cards: read, checked, written, found for a run; and the provenance of a card.

A card is Megatron-LM's own format: ``{metric: {"start_step", "end_step", "step_interval", "values": {step:
value}}}``, with an optional ``"value_precision": "full"`` for a metric whose values were not rounded to 5
decimals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.records.card import Card, card_text, header_fault
from tasks.records.card_reader import read as read_card
from tasks.util.exits import UsageError
from tasks.util.files import file_sha256, mapping, read_json_object, write_atomically


def write_card(path: str | Path, card: Card) -> None:
    """Write a card; the file is the old one or the whole new one, never a part."""
    write_atomically(Path(path), card_text(card))


class NoGoldenCard(UsageError):
    """There is no card to compare with."""


@dataclass(frozen=True)
class FoundCard:
    """The card for an environment and platform; ``generic``: it decides approximate checks only."""

    path: Path
    generic: bool


def card_path(root: Path, case_name: str, environment: str, platform: str) -> Path:
    """``<root>/goldens/<case>/golden_values_<environment>_<platform>.json``"""
    return root / "goldens" / case_name / f"golden_values_{environment}_{platform}.json"


def find_card(
    root: Path, case_name: str, environment: str, platform: str, folder: Path | None = None
) -> FoundCard:
    """The card of this environment and platform, else the generic one of the environment.

    ``folder``: where they lie, when that is not ``<root>/goldens/<case>``.

    Raises:
        NoGoldenCard: there is neither; says how to get one.
    """
    own = card_path(root, case_name, environment, platform)
    own = folder / own.name if folder else own
    if os.path.lexists(own):  # an unreadable one is an error, not a reason to take the looser one
        return FoundCard(own, generic=False)
    generic = own.with_name(f"golden_values_{environment}.json")
    if generic.exists():
        return FoundCard(generic, generic=True)
    record = f'record one: nox -s record -- {case_name} --reason "..."'
    advice = f"put {own.name} beside the case file" if folder else record
    raise NoGoldenCard(
        f"no golden card of {case_name} for {environment} on {platform} ({own.name}); {advice}"
    )


class ComparedRun(Protocol):
    """A run, as far as its golden card depends on it. ``goldens``: the folder of its cards, where given."""

    directory: Path
    card_name: str
    environment: str
    platform: str
    goldens: Path | None


def card_of(run: ComparedRun, golden_file: Path | None, root: Path, *, strict: bool) -> tuple[Card, bool]:
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
        found = FoundCard(golden_file, generic=False)
    else:
        found = find_card(root, run.card_name, run.environment, run.platform, run.goldens)
    return usable_card(found.path, strict=strict), found.generic


def usable_card(path: Path, *, strict: bool = True) -> Card:
    """The card in a file.

    Raises:
        UsageError: a malformed card, or one without a metric; ``strict``: also a header that contradicts its
            values.
    """
    card = read_card(path)
    if strict:
        refuse_header_faults(card)
    if not card.metrics:
        raise UsageError(f"{path}: holds no metric")
    return card


def refuse_header_faults(*cards: Card) -> None:
    """Raises ``UsageError`` for a card whose header contradicts its values."""
    for card in cards:
        for name, metric in card.metrics.items():
            fault = header_fault(metric)
            if fault:
                raise UsageError(f"{card.name}: {name!r}: {fault}")


def origin(path: Path) -> tuple[Mapping[str, object], str | None]:
    """Fingerprint and platform of a card: from its provenance, or from the run that it lies in."""
    provenance = read_provenance(path)
    beside = path.with_name("case.json")
    if provenance is None and beside.exists():
        provenance = read_json_object(beside)
    facts = mapping((provenance or {}).get("fingerprint"))
    platform = (provenance or {}).get("platform") or facts.get("platform")
    return facts, platform if isinstance(platform, str) else None


def any_full(card: Card) -> bool:
    """True when values of a card are kept as measured, not rounded."""
    return any(metric.full_precision for metric in card.metrics.values())


def provenance_path(card_file: Path) -> Path:
    return card_file.with_name(f"{card_file.stem}.provenance.json")


def read_provenance(card_file: Path) -> dict[str, object] | None:
    """The side file of a card, or None when there is none.

    Raises:
        UsageError: the side file is no JSON object.
    """
    path = provenance_path(card_file)
    return read_json_object(path) if path.exists() else None


def write_provenance(card_file: Path, provenance: Mapping[str, object]) -> None:
    """Write the side file of a card that is already written; its digest is added, so that an edit shows."""
    content = {**provenance, "card_sha256": file_sha256(card_file)}
    write_atomically(provenance_path(card_file), json.dumps(content, indent=4, allow_nan=False) + "\n")
