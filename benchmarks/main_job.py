"""How long the main job takes on this machine, where the time goes, and how much memory it needs.

``python benchmarks/main_job.py [--cold] [--out benchmarks/main_job.md]`` runs the session as a user does,
with nox, and measures from command to exit code. ``--cold`` does it in a fresh clone, environment included.
Run it on a quiet machine: nothing here is judged by a test.
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

import psutil

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tasks.machine.platforms import read_processor  # noqa: E402

CASE = "gpt3_pp4_resume"
HELPS = ("train", "resume", "diff", "report", "record", "doctor", "clean", "check")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A command's wall time, its exit code, and the most memory its whole process tree had at once."""

    seconds: float
    exit_code: int
    peak_bytes: int


def measure(command: list[str], folder: Path) -> Measured:
    """Run a command and sample its tree every 5 s (sampling slows it); shared pages count once (PSS)."""
    begin, peak = time.monotonic(), 0
    process = psutil.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.is_running():
        try:
            process.wait(timeout=5)
            break
        except psutil.TimeoutExpired:
            peak = max(peak, proportional_bytes(process))
    return Measured(seconds=time.monotonic() - begin, exit_code=process.returncode, peak_bytes=peak)


def proportional_bytes(root: psutil.Process) -> int:
    """Proportional set sizes of a process and all its descendants, in bytes."""
    total = 0
    try:
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in tree:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def best_of(count: int, command: list[str]) -> float:
    """The shortest wall time of a command, in seconds."""
    times = []
    for _ in range(count):
        begin = time.monotonic()
        subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
        times.append(time.monotonic() - begin)
    return min(times)


def phases(run_dir: Path) -> list[str]:
    """Where the time of a run went, from its phase records."""
    rows = []
    for number in (1, 2):
        seconds = json.loads((run_dir / f"phase{number}.json").read_text())["seconds"]
        parts = ", ".join(f"{name} {value:.1f} s" for name, value in sorted(seconds.items()))
        rows.append(f"| phase {number} | {parts} |")
    return rows


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cold", action="store_true", help="in a fresh clone, environment included")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    nox = [sys.executable, "-m", "nox", "-s", CASE]
    lines = ["| what | measured |", "| --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        if options.cold:
            clone = Path(folder, "clone")
            subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(clone)], check=True)
            cold = measure(nox, clone)
            lines.append(f"| cold: clone to exit code {cold.exit_code} | {cold.seconds:.1f} s |")
        subprocess.run([*nox[:-1], "doctor"], cwd=REPOSITORY, capture_output=True, check=True)  # environment
        runs = []
        for index in range(options.runs):
            run_dir = Path(folder, f"run{index}")
            runs.append(measure([*nox, "--", "--run-dir", str(run_dir)], REPOSITORY))
            print(runs[-1], flush=True)
        times = ", ".join(f"{run.seconds:.1f}" for run in runs)
        codes = {run.exit_code for run in runs}
        lines.append(f"| session with its environment in place, exit codes {codes} | {times} s |")
        lines.append(
            f"| peak memory of the process tree (PSS) | {max(r.peak_bytes for r in runs) / 2**30:.2f} GiB |"
        )
        lines += phases(run_dir)
        task = [sys.executable, "-m"]
        lines.append(
            f"| tasks.diff | {best_of(5, [*task, 'tasks.diff', CASE, '--run-dir', str(run_dir)]):.2f} s |"
        )
        helps = max(best_of(5, [*task, f"tasks.{name}", "--help"]) for name in HELPS)
        lines.append(f"| slowest --help of {len(HELPS)} tasks | {helps:.2f} s |")
    machine = f"{os.cpu_count()} cores ({read_processor().model}), Python {platform.python_version()}"
    head = f"Main job on {machine}, {time.strftime('%Y-%m-%d')}"
    text = "\n".join([head, "", *lines]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
