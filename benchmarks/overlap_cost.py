"""What the evidence of overlap costs: one training that gathers it in half of its steps, drawn by lot.

``python benchmarks/overlap_cost.py [--steps N] [--out FILE]`` exits 1 when it costs more than ``--target`` of
a step. Trainings of the same program differ by several per cent from one to the next, steps of one training
do not. By lot and not in turns, since every second step differs without it, too: by 1 % on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tasks.cases.metrics import SUMS_EVERY  # noqa: E402
from tasks.machine import platforms  # noqa: E402
from tasks.records.card_store import read_card  # noqa: E402
from tasks.util.exits import TrainingFailed, exit_with  # noqa: E402

CASE, RANKS, WARM_UP_STEPS = "gpt3_pp4_resume", 8, 10
PLUGINS = REPOSITORY / "benchmarks" / "rank_plugins"
CLOCK, PROCESSOR = "clock", "processor, all ranks"
EVIDENCE = "overlap-grad-buckets"  # above 0 where the evidence was gathered
RESAMPLES = 4000


@dataclass(frozen=True, kw_only=True)
class Training:
    """Seconds of each step, by the measure's name and the step; and the steps with the evidence."""

    seconds: dict[str, dict[int, float]]
    with_evidence: frozenset[int]

    def halves(self, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of the steps with the evidence, and of those without."""
        judged = {
            step: seconds
            for step, seconds in self.seconds[measure].items()
            # Sums are written after these, and weights compared, which the next one feels.
            if step > WARM_UP_STEPS and step % SUMS_EVERY not in (0, 1)
        }
        with_it = [seconds for step, seconds in judged.items() if step in self.with_evidence]
        without = [seconds for step, seconds in judged.items() if step not in self.with_evidence]
        if not with_it or not without:
            raise TrainingFailed("the evidence was gathered in all steps or in none: there is no comparison")
        return np.array(with_it), np.array(without)


def train(folder: Path, steps: int) -> Training:
    """Train ``steps`` iterations of the main case on the CPU."""
    run_dir, seconds_dir = folder / "run", folder / "seconds"
    seconds_dir.mkdir()
    command = [sys.executable, "-m", "tasks.train", CASE, "--run-dir", str(run_dir)]
    flags = {"train-iters": steps, "save-interval": steps - 1, "eval-interval": steps + 1}
    command += [word for flag, value in flags.items() for word in ("--set", f"{flag}={value}")]
    for name in ("overlap_in_half_of_the_steps.py", "processor_seconds.py"):
        command += ["--rank-plugin", str(PLUGINS / name)]
    env = {**os.environ, "CRASH_TEST_DEVICE": "cpu", "SECONDS_DIR": str(seconds_dir)}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrainingFailed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    used = [json.loads(path.read_text()) for path in seconds_dir.glob("rank*.json")]
    if len(used) != RANKS:
        raise TrainingFailed(f"{run_dir}: {len(used)} ranks of {RANKS} left their processor seconds")
    ends = np.sum(used, axis=0)
    card = read_card(run_dir / "actual_phase1.json")
    clock, counted = (card.metrics[name] for name in ("iteration-time", EVIDENCE))
    return Training(
        seconds={
            CLOCK: dict(zip(clock.steps.tolist(), clock.values.tolist(), strict=True)),
            PROCESSOR: dict(enumerate(np.diff(ends).tolist(), 2)),
        },
        with_evidence=frozenset(counted.steps[counted.values > 0].tolist()),
    )


def cost(with_it: np.ndarray, without: np.ndarray) -> tuple[float, float, float]:
    """What it costs, as a part of a step, and the ends of its 95 % confidence interval.

    The ratio of the two medians, less 1; the interval is that of a bootstrap over the steps of each half.
    """
    random = np.random.default_rng(1)
    drawn = [
        np.median(random.choice(with_it, with_it.size)) / np.median(random.choice(without, without.size))
        - 1.0
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(np.median(with_it) / np.median(without) - 1.0), float(low), float(high)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1300, help="0.22 s each on 2 cores")
    parser.add_argument("--target", type=float, default=0.01, help="of a step, at most")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args(words)
    if options.steps < 100:
        parser.error("fewer than 100 steps show nothing")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, judge by the processor's seconds, which other work on the machine disturbs less."""
    options = arguments(words)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        training = train(Path(folder), options.steps)
    lines = [
        f"`{CASE}`, {RANKS} ranks, {options.steps} steps on {os.cpu_count()} cores"
        f" ({platforms.read_processor().model}), {time.strftime('%Y-%m-%d')}, Python"
        f" {platform.python_version()}, commit {platforms.git_commit()}. Load average before: {load:.1f}.",
        "",
        "| seconds a step | steps | with it | without | cost | 95 % confidence |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for measure in (CLOCK, PROCESSOR):
        with_it, without = training.halves(measure)
        part, low, high = cost(with_it, without)
        lines.append(
            f"| {measure} | {with_it.size} and {without.size} | {np.median(with_it):.4f} s |"
            f" {np.median(without):.4f} s | {part:+.2%} | {low:+.2%} to {high:+.2%} |"
        )
    verdict = "met" if part <= options.target else "MISSED"
    lines += ["", f"At most {options.target:.0%} of a step, by the processor's seconds: {verdict}"]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)
    return int(part > options.target)


if __name__ == "__main__":
    exit_with(main)
