"""How many steps of two runs are equal to the last bit, by metric; or, with --times, where the time went."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

EQUAL = ("lm loss", "grad-norm", "num-zeros", "params-norm", "learning-rate")


def metrics(run: Path, phase: int = 1) -> dict[str, dict[str, float]]:
    """Values by step, by metric."""
    card = json.loads((run / f"actual_phase{phase}.json").read_text())
    return {name: metric["values"] for name, metric in card.items()}


def compare(first: Path, second: Path) -> bool:
    """Print a line a metric; whether all common steps are equal."""
    one, other = metrics(first), metrics(second)
    same = True
    for name in EQUAL:
        common = sorted(one[name].keys() & other[name].keys(), key=int)
        equal = sum(one[name][step] == other[name][step] for step in common)
        same = same and equal == len(common) > 0
        print(f"{name}: {equal} of {len(common)} common steps equal")
    return same


def show_times(run: Path) -> None:
    """Seconds of each phase, the median step, and bytes on the last stage's GPU."""
    for phase in (1, 2):
        if not (run / f"phase{phase}.json").is_file():
            continue
        seconds = json.loads((run / f"phase{phase}.json").read_text())["seconds"]
        values = metrics(run, phase)
        steps = list(values["iteration-time"].values())
        parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        most = max(values["mem-max-allocated-bytes"].values()) / 2**20
        last = list(values["mem-allocated-bytes"].values())[-1] / 2**20
        print(
            f"{run.name} phase {phase}: {parts} s; step: median {statistics.median(steps[5:]):.3f} s,"
            f" first {steps[0]:.2f} s, least {min(steps):.3f} s; last stage: {most:.0f} MiB at most,"
            f" {last:.0f} MiB after the last step"
        )


if __name__ == "__main__":
    if sys.argv[1] == "--times":
        for argument in sys.argv[2:]:
            show_times(Path(argument))
    else:
        sys.exit(not compare(Path(sys.argv[1]), Path(sys.argv[2])))
