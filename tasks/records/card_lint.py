"""The linter of golden cards: what is wrong with the files below ``goldens/``, a line each."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from tasks.cases import names
from tasks.util.exits import UsageError

PROVENANCE_KEYS = ("reason", "recorded", "environment")


def problems(root: Path, cases: Collection[str] | None = None) -> list[str]:
    """One line a problem, for the cards under ``<root>/goldens``: all of them, or those of ``cases``."""
    found = _cards_of_no_case(root) if cases is None else []
    files = sorted((root / "goldens").glob("*/*"))
    if cases is None and not files:
        return [f"{root / 'goldens'}: holds no golden card; nothing was checked"]
    for path in files:
        if cases is not None and case_of(path) not in cases:
            continue
        if path.name.endswith(".provenance.json"):
            card = path.with_name(path.name.replace(".provenance.json", ".json"))
            found += [] if card.exists() else [f"{path}: its card {card.name} is missing"]
        elif re.fullmatch(r"golden_values_[A-Za-z0-9]+(_[A-Za-z0-9_-]+)?\.json", path.name):
            found += card_problems(path)
        else:
            found.append(
                f"{path}: is no golden_values_<environment>[_<platform>].json and no provenance of one"
            )
    return found


def _cards_of_no_case(root: Path) -> list[str]:
    """Folders of cards whose case was removed, or whose case file was renamed so that nothing runs it."""
    known = names.case_names(root)
    folders = [path for path in sorted((root / "goldens").glob("*")) if path.is_dir()]
    return [
        f"{path}: there is no case {name}: remove it, or put test_cases/{name}/model_config.yaml back"
        for path, name in ((path, case_of(path / "card")) for path in folders)
        if name not in known
    ]


def case_of(card_file: Path) -> str:
    """The case of a card under ``goldens/``, also where the cards of a subject lie apart."""
    return card_file.parent.name.partition("@")[0]


def card_problems(path: Path) -> list[str]:
    """Check that values are finite, no step is missing, precision is marked, and the provenance fits."""
    import numpy as np

    from tasks.records.card import DECIMALS, header_fault
    from tasks.records.card_store import provenance_path, read_card, read_provenance
    from tasks.util.files import file_sha256

    try:
        card, provenance = read_card(path), read_provenance(path)
    except UsageError as error:
        return [str(error)]
    found = []
    for name, metric in card.metrics.items():
        fault = header_fault(metric)
        if fault:
            found.append(f"{name!r}: {fault}")
        lost = metric.steps[~np.isfinite(metric.values)]
        if lost.size:
            found.append(f"{name!r}: step {lost[0]} is no finite number")
        if not metric.full_precision:
            fine = [value for value in metric.values.tolist() if value != round(value, DECIMALS)]
            if fine:
                found.append(
                    f"{name!r}: {fine[0]!r} has more than {DECIMALS} decimals, "
                    'but is not marked "value_precision": "full"'
                )
    if provenance is None:
        return [f"{path}: {fault}" for fault in [*found, f"no {provenance_path(path).name}"]]
    found += [f"provenance without {key!r}" for key in PROVENANCE_KEYS if not provenance.get(key)]
    if provenance.get("card_sha256") != file_sha256(path):
        found.append("the provenance is of another content (card_sha256): was the card edited by hand?")
    if path.parent.name != provenance.get("case"):
        found.append(f"the provenance is of the case {provenance.get('case')!r}")
    expected = "_".join(filter(None, (str(provenance.get("environment")), provenance.get("platform"))))
    if path.stem != f"golden_values_{expected}":
        found.append(f"the provenance is of {expected!r}")
    if any(metric.full_precision for metric in card.metrics.values()) and not provenance.get("fingerprint"):
        found.append("the provenance has no fingerprint")
    return [f"{path}: {fault}" for fault in found]
