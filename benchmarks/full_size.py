"""The full-size case on this machine's GPUs: three equal runs, their golden card, times, and more.

``python benchmarks/full_size.py [PART ...] --work-dir DIR [--gpus N] [--reason TEXT]``. Parts, in order:

* ``runs``: train, restart and judge three times. Every step of all three must be equal to the last bit. With
  ``--reason`` they become the golden card of this platform.
* ``without-mps``: 20 steps of ranks that take turns on their GPU; they must be those of the first run.
* ``faults``: five planted faults, each of which must be caught.
* ``overlap``: ``benchmarks/overlap_share.py``, how much communication is hidden.

``--gpus N`` uses the first N of the visible GPUs. What each task took, and the table of the runs, is written
to DIR as it comes. Exits with the first code that is not 0; the parts that follow are still made.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks import same_steps  # noqa: E402
from tasks.cases.metrics import WARM_UP_STEPS  # noqa: E402
from tasks.machine import platforms  # noqa: E402
from tasks.suite.steps import code_of  # noqa: E402
from tasks.util.exits import MISMATCH, PASSED, UsageError, exit_with  # noqa: E402
from tasks.util.files import read_json_object  # noqa: E402

CASE = "gpt3_pp4_resume"
RUNS = ("1", "2", "3")
FAULTS = (
    "resume_random_states_kept",
    "reduction_skipped_for_one_bucket",
    "grad_overlap_off",
    "gather_overlap_off",
    "memory_leak",
)
LIMIT_S = 150.0  # of a phase; a healthy one took 30 to 62 s on one H100
STOP_LIMIT_S = 60.0
TIMES, TABLE = "times.txt", "runs.md"


class Bench:
    """Runs programs of the repository one after the other; keeps their words and times in ``work_dir``."""

    def __init__(self, work_dir: Path) -> None:
        self.work_dir = work_dir
        self.exit_code = PASSED
        self.seconds: dict[str, float] = {}

    def call(self, name: str, *words: str, limit_s: float = LIMIT_S, **environ: str) -> bool:
        """Run Python with ``words``; whether it exited with 0. ``environ`` is put over the environment."""
        begin = time.monotonic()
        with (self.work_dir / f"{name}.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environ},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                _stop(process)
        self.seconds[name] = time.monotonic() - begin
        self._note(f"{name:24} exit {process.returncode:3} {self.seconds[name]:7.1f} s")
        if process.returncode:
            self._note("".join((self.work_dir / f"{name}.txt").read_text().splitlines()[-1:]))
        return self.judge(code_of(name, process.returncode))

    def show(self, name: str) -> None:
        """What a program said, which ends with its table."""
        print((self.work_dir / f"{name}.txt").read_text(), flush=True)

    def judge(self, code: int) -> bool:
        """Remember the first code that is not 0."""
        self.exit_code = self.exit_code or code
        return code == PASSED

    def _note(self, line: str) -> None:
        print(line, flush=True)
        with (self.work_dir / TIMES).open("a") as file:
            print(line, file=file)

    def run_dir(self, name: str) -> Path:
        return self.work_dir / "runs" / name


def _stop(process: subprocess.Popen) -> None:
    process.terminate()  # a task then ends its ranks and its MPS daemon
    try:
        process.wait(timeout=STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def make_runs(bench: Bench, reason: str | None) -> None:
    """Three times from the start to the verdict; what is equal, the card, the table."""
    if not bench.call("corpus", "-m", "tasks.corpus", CASE):
        return
    for run in RUNS:
        words = (CASE, "--run-dir", str(bench.run_dir(run)))
        good = bench.call(f"train_{run}", "-m", "tasks.train", *words)
        good = good and bench.call(f"resume_{run}", "-m", "tasks.resume", *words)
        if not good:
            return
        shutil.rmtree(bench.run_dir(run) / "phase2" / "checkpoints", ignore_errors=True)
        if run != RUNS[0]:  # whose checkpoint the faults of the restart load
            shutil.rmtree(bench.run_dir(run) / "checkpoints", ignore_errors=True)
            bench.judge(PASSED if same_steps.compare(*map(bench.run_dir, (RUNS[0], run))) else MISMATCH)
    if reason is not None:
        chosen = [word for run in RUNS for word in ("--from-run", str(bench.run_dir(run)))]
        bench.call("record", "-m", "tasks.record", CASE, *chosen, "--reason", reason, "--yes")
    for run in RUNS:
        bench.call(f"diff_{run}", "-m", "tasks.diff", CASE, "--run-dir", str(bench.run_dir(run)))
    table = table_of_runs(bench)
    (bench.work_dir / TABLE).write_text(table)
    print(table, flush=True)


def table_of_runs(bench: Bench) -> str:
    """Markdown: seconds of commands, of steps, and memory of the last stage, a column a run."""
    from tabulate import tabulate

    values = [[same_steps.metrics(bench.run_dir(run), phase) for phase in (1, 2)] for run in RUNS]
    steps = [[list(phase["iteration-time"].values()) for phase in run] for run in values]
    starts = [
        [read_json_object(bench.run_dir(run) / f"phase{phase}.json")["seconds"]["start"] for phase in (1, 2)]
        for run in RUNS
    ]
    most = [max(run[0]["mem-max-allocated-bytes"].values()) / 2**20 for run in values]

    def of_phases(number: Callable[[list[float]], float]) -> list[str]:
        return [", ".join(f"{number(phase):.3f}" for phase in run) for run in steps]

    commands = ("train", "resume", "diff")
    taken = {word: [bench.seconds[f"{word}_{run}"] for run in RUNS] for word in commands}
    rows = [
        *([f"tasks.{word}, s", *(f"{seconds:.1f}" for seconds in taken[word])] for word in commands),
        ["together, s", *(f"{sum(column):.1f}" for column in zip(*taken.values(), strict=True))],
        ["to the first rank's start, s", *(", ".join(f"{s:.1f}" for s in run) for run in starts)],
        ["median step, phase 1, 2, s", *of_phases(lambda phase: statistics.median(phase[WARM_UP_STEPS:]))],
        ["least step, s", *of_phases(min)],
        ["last stage at most, MiB", *(f"{mebibytes:.0f}" for mebibytes in most)],
    ]
    headers = [f"{CASE} on {platforms.detect().name}", *(f"run {run}" for run in RUNS)]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True) + "\n"


def try_without_mps(bench: Bench) -> None:
    """The same bits, from ranks that take turns."""
    words = ("-m", "tasks.train", CASE, "--run-dir", str(bench.run_dir("without_mps")))
    flags = ("--set", "train-iters=20", "--set", "save-interval=10")
    if bench.call("without_mps", *words, *flags, CRASH_TEST_MPS="off"):
        same = same_steps.compare(bench.run_dir(RUNS[0]), bench.run_dir("without_mps"))
        bench.judge(PASSED if same else MISMATCH)


def try_faults(bench: Bench) -> None:
    """Each of the five, and the controls; restarts go on from the first run's checkpoint."""
    first = bench.run_dir(RUNS[0])
    made = ("--reference", str(first)) if (first / "checkpoints").is_dir() else ()
    words = ("--case", CASE, "--work-dir", str(bench.run_dir("faults")), *made)
    bench.call("faults", "-m", "tasks.faults", *FAULTS, *words, limit_s=600)
    bench.show("faults")


def measure_overlap(bench: Bench) -> None:
    """Both overlaps on, gradients only, none, side by side."""
    script = str(REPOSITORY / "benchmarks" / "overlap_share.py")
    words = ("--rounds", "1", "--work-dir", str(bench.run_dir("overlap")))
    bench.call("overlap", script, *words, limit_s=600)
    bench.show("overlap")


def use_gpus(count: int) -> None:
    """Show only the first ``count`` of the visible GPUs to all that follows.

    Raises:
        UsageError: there are not so many, or ranks are not laid out over so many.
    """
    shown = platforms.visible(platforms.query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if count not in platforms.WORLD_SIZES or count > len(shown):
        known = ", ".join(str(number) for number in sorted(platforms.WORLD_SIZES) if number <= len(shown))
        raise UsageError(f"--gpus {count}: {len(shown)} are visible; of these {known or 'none'} can be used")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu.index) for gpu in shown[:count])


def main(words: list[str] | None = None) -> int:
    """Make the parts asked for, in their order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="runs (default), without-mps, faults, overlap"
    )
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument(
        "--gpus", type=int, help="how many of the visible GPUs to use (default: as the platform)"
    )
    parser.add_argument("--reason", help="why a golden card is written; without it none is")
    options = parser.parse_args(words)
    parts: dict[str, Callable[[Bench], None]] = {
        "runs": lambda bench: make_runs(bench, options.reason),
        "without-mps": try_without_mps,
        "faults": try_faults,
        "overlap": measure_overlap,
    }
    chosen = options.parts or ["runs"]
    if unknown := [part for part in chosen if part not in parts]:
        raise UsageError(f"no such part: {', '.join(unknown)}; known: {', '.join(parts)}")
    if options.gpus is not None:
        use_gpus(options.gpus)
    platform = platforms.detect()
    if "without-mps" in chosen and platform.ranks_per_gpu < 2:
        raise UsageError(f"without-mps: on {platform.name} no ranks share a GPU")
    options.work_dir.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.work_dir.resolve())
    for name, make in parts.items():
        if name in chosen:
            make(bench)
    return bench.exit_code


if __name__ == "__main__":
    exit_with(main)
