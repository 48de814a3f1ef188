"""How many steps of two runs are equal to the last bit: ``python benchmarks/same_steps.py DIR DIR``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

EQUAL = ("lm loss", "grad-norm", "num-zeros", "params-norm", "learning-rate")


def metrics(run: Path, phase: int = 1) -> dict[str, dict[str, float]]:
    """Values by step, by metric."""
    card = json.loads((run / f"actual_phase{phase}.json").read_text())
    return {name: metric["values"] for name, metric in card.items()}


def compare(first: Path, second: Path) -> bool:
    """Print a line a metric: how much is equal, and where it parts; whether all common steps are equal."""
    one, other = metrics(first), metrics(second)
    same = True
    for name in EQUAL:
        common = sorted(one[name].keys() & other[name].keys(), key=int)
        parted = [step for step in common if one[name][step] != other[name][step]]
        same = same and bool(common) and not parted
        where = f"; step {parted[0]}: {one[name][parted[0]]!r}, {other[name][parted[0]]!r}" if parted else ""
        print(f"{name}: {len(common) - len(parted)} of {len(common)} common steps equal{where}")
    return same


if __name__ == "__main__":
    sys.exit(not compare(Path(sys.argv[1]), Path(sys.argv[2])))
