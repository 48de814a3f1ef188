"""How many steps of two runs are equal to the last bit: ``python benchmarks/same_steps.py DIR DIR``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tasks.records.card_store import read_card  # noqa: E402
from tasks.util.exits import MISMATCH, PASSED, exit_with  # noqa: E402

EQUAL = ("lm loss", "grad-norm", "num-zeros", "params-norm", "learning-rate")


def metrics(run: Path, phase: int = 1) -> dict[str, dict[int, float]]:
    """Values by step, by metric."""
    card = read_card(run / f"actual_phase{phase}.json")
    return {
        name: dict(zip(metric.steps.tolist(), metric.values.tolist(), strict=True))
        for name, metric in card.metrics.items()
    }


def compare(first: Path, second: Path) -> bool:
    """Print a line a metric: how much is equal, and where it parts; whether all common steps are equal."""
    one, other = metrics(first), metrics(second)
    same = True
    for name in EQUAL:
        common = sorted(one.get(name, {}).keys() & other.get(name, {}).keys())
        parted = [step for step in common if one[name][step] != other[name][step]]
        same = same and bool(common) and not parted
        where = f"; step {parted[0]}: {one[name][parted[0]]!r}, {other[name][parted[0]]!r}" if parted else ""
        print(f"{name}: {len(common) - len(parted)} of {len(common)} common steps equal{where}")
    return same


def main(words: list[str] | None = None) -> int:
    """``MISMATCH`` when a common step differs, or there is none.

    Raises:
        UsageError: a folder that holds no run.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs=2, type=Path, metavar="DIR", help="a finished run")
    return PASSED if compare(*parser.parse_args(words).runs) else MISMATCH


if __name__ == "__main__":
    exit_with(main)
