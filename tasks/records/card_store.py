"""Golden cards: read, checked, written, found; and where a card came from.

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

from tasks.records.card import Card, card_text
from tasks.records.card_reader import read as read_card  # noqa: F401
from tasks.util.exits import UsageError
from tasks.util.files import file_sha256, read_json_object, write_atomically


def write_card(path: str | Path, card: Card) -> None:
    """Write a card; the file is the old one or the whole new one, never a part."""
    write_atomically(Path(path), card_text(card))


class NoGoldenCard(UsageError):
    """There is no card to compare with."""


@dataclass(frozen=True)
class FoundCard:
    """Where the card for an environment and platform lies; ``generic``: held to approximate checks only."""

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
        UsageError: there is neither; says how to record one.
    """
    own = card_path(root, case_name, environment, platform)
    own = folder / own.name if folder else own
    if os.path.lexists(own):  # one that cannot be read is told, and no looser one taken
        return FoundCard(own, generic=False)
    generic = own.with_name(f"golden_values_{environment}.json")
    if generic.exists():
        return FoundCard(generic, generic=True)
    raise NoGoldenCard(
        f"no golden card of {case_name} for {environment} on {platform} ({own.name}); "
        f'record one: nox -s record -- {case_name} --reason "..."'
    )


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
