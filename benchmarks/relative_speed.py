"""What tells a slow program from a busy machine: relative times of clean runs, of runs beside a CPU hog, and
of runs with a backward pass 30 % slower.

``python benchmarks/relative_speed.py N --work-dir DIR`` trains N times each, a few steps, and writes
``DIR/relative_speed.json`` and ``DIR/relative_speed.png``: what docs/speed.md was written from.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.cpu_hog import cpu_hog  # noqa: E402
from tasks.judge.strict import steady_steps  # noqa: E402
from tasks.records.card_store import read_card  # noqa: E402

CASE, STEPS = "gpt3_pp4_resume", 12
SLOW = REPOSITORY / "tests" / "faults" / "slow_backward.py"
KINDS = {"clean": (False, False), "hog": (True, False), "slow": (False, True), "slow and hog": (True, True)}
METRICS = ("relative-forward-time", "relative-backward-time", "relative-step-time", "iteration-time")


def measure(run_dir: Path, *, hog: bool, slow: bool) -> dict[str, float]:
    """Train ``STEPS`` steps; the medians that the comparison takes."""
    words = ["--run-dir", str(run_dir), "--set", f"exit-interval={STEPS}"]
    words += ["--rank-plugin", str(SLOW)] if slow else []
    with cpu_hog(hog):
        command = [sys.executable, "-m", "tasks.train", CASE, *words]
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    card = read_card(run_dir / "actual_phase1.json")
    medians = {}
    for name in METRICS:
        metric = card.metrics[name]
        medians[name] = float(np.median(metric.values[np.isin(metric.steps, steady_steps(metric.steps))]))
    return medians


def draw(results: dict[str, list[dict[str, float]]], path: Path) -> None:
    """A panel a metric: every run a dot, over the median of the clean ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(METRICS), figsize=(13, 4), sharey=True)
    for panel, name in zip(panels, METRICS, strict=True):
        clean = np.median([run[name] for run in results["clean"]])
        for position, kind in enumerate(results):
            values = np.array([run[name] for run in results[kind]]) / clean
            panel.scatter(np.full(values.size, position), values, s=14, alpha=0.6)
        panel.set_title(name)
        panel.set_xticks(range(len(results)), list(results), rotation=30)
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("median of a run / of all clean runs")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=int, help="of each kind")
    parser.add_argument("--work-dir", type=Path, required=True)
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for number in range(options.runs):
        for kind, (hog, slow) in KINDS.items():
            run_dir = options.work_dir / f"{kind.replace(' ', '_')}_{number}"
            results[kind].append(measure(run_dir, hog=hog, slow=slow))
            print(number, kind, results[kind][-1], flush=True)
    (options.work_dir / "relative_speed.json").write_text(json.dumps(results, indent=1))
    draw(results, options.work_dir / "relative_speed.png")


if __name__ == "__main__":
    main()
