"""Does it cry wolf? The clean case again and again, every second time with a CPU hog on one core beside it.

``python benchmarks/false_alarms.py N [--out FILE]`` trains, restarts and compares N times, and exits 1 when
one of them did not pass. About a minute each on 2 quiet cores, half as much again beside a hog.
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
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.cpu_hog import cpu_hog  # noqa: E402
from tasks.machine.platforms import read_processor  # noqa: E402

CASE = "gpt3_pp4_resume"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One clean run: what its steps ended with, and the rows of the verdict that failed."""

    beside_a_hog: bool
    seconds: float
    exit_code: int
    failed_rows: tuple[str, ...]


def attempt(run_dir: Path, *, hog: bool) -> Trial:
    """Train, restart and compare once, as the session does."""
    begin, code = time.monotonic(), 0
    with cpu_hog(hog):
        for task in ("train", "resume", "diff"):
            command = [sys.executable, "-m", f"tasks.{task}", CASE, "--run-dir", str(run_dir)]
            code = (
                code or subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False).returncode
            )
    seconds, report = time.monotonic() - begin, run_dir / "report.json"
    rows = json.loads(report.read_text())["rows"] if report.is_file() else []
    failed = tuple(f"{row['comparison']}: {row['metric']}" for row in rows if not row["passed"])
    return Trial(beside_a_hog=hog, seconds=seconds, exit_code=code, failed_rows=failed)


def table(trials: list[Trial]) -> str:
    """The trials as Markdown."""
    lines = [
        "| run | beside it | seconds | exit code | rows that failed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for number, trial in enumerate(trials, 1):
        beside, failed = "a CPU hog" if trial.beside_a_hog else "", ", ".join(trial.failed_rows)
        lines.append(f"| {number} | {beside} | {trial.seconds:.1f} | {trial.exit_code} | {failed} |")
    alarms = sum(trial.exit_code != 0 for trial in trials)
    return "\n".join([*lines, "", f"{alarms} false alarms in {len(trials)} runs"]) + "\n"


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.runs < 1:
        parser.error(f"{options.runs} runs show nothing: give 1 or more")
    trials = []
    for number in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            trials.append(attempt(Path(folder, "run"), hog=number % 2 == 1))
        print(trials[-1], flush=True)
    machine = f"{os.cpu_count()} cores ({read_processor().model}), Python {platform.python_version()}"
    text = f"Clean runs of {CASE} on {machine}, {time.strftime('%Y-%m-%d')}\n\n{table(trials)}"
    print(text)
    if options.out:
        options.out.write_text(text)
    return int(any(trial.exit_code for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
