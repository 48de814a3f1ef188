"""Kills processes of real, short trainings and tells whether the harness survives: a table of docs/kills.md.

``python -m benchmarks.kills [--times 5] [--only KIND ...]`` trains the main case for 12 steps, a checkpoint
every 4, with each kind of kill; every run that goes on must have the values of a clean run, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.records import attempts
from tests.short_run import processes_of

REPOSITORY = Path(__file__).resolve().parent.parent
SHORT = ("--set", "exit-interval=12", "--set", "save-interval=4")
METRICS = ("lm loss", "grad-norm", "num-zeros", "params-norm", "learning-rate")
TRACKER = "checkpoints/latest_checkpointed_iteration.txt"
WITHIN_S = 10.0


class Failed(Exception):
    """A kill was not survived; the message says why."""


class Trials:
    """One folder for all runs, and the clean run that they are compared with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clean = folder / "clean"
        self.train(self.clean, expected=0)

    def command(self, run_dir: Path, *options: str, case: str = "gpt3_pp4_resume") -> list[str]:
        return [sys.executable, "-m", "tasks.train", case, "--run-dir", str(run_dir), *SHORT, *options]

    def train(self, run_dir: Path, *options: str, expected: int, case: str = "gpt3_pp4_resume") -> str:
        done = subprocess.run(
            self.command(run_dir, *options, case=case),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != expected:
            raise Failed(f"exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout + done.stderr

    def case(self, kills: list[dict[str, object]]) -> str:
        path = self.folder / f"crash{len(list(self.folder.glob('crash*')))}" / "model_config.yaml"
        path.parent.mkdir()
        path.write_text(f"INHERIT: gpt3_pp4_crash_resume\nCRASH: {json.dumps(kills)}\n")
        return str(path)

    def require_clean_values(self, run_dir: Path) -> None:
        clean, killed = (
            json.loads((path / "actual_phase1.json").read_text()) for path in (self.clean, run_dir)
        )
        for name in METRICS:
            if killed[name]["values"] != clean[name]["values"]:
                raise Failed(f"{name} is not that of the clean run")

    def record(self, run_dir: Path) -> dict:
        return json.loads((run_dir / "phase1.json").read_text())


def crash(*ranks: int) -> Callable[[Trials, Path], str]:
    """Ranks killed after step 7 by the case itself."""

    def trial(trials: Trials, run_dir: Path) -> str:
        case = trials.case([{"after_step": 7, "ranks": list(ranks)}])
        trials.train(run_dir, expected=0, case=case)
        trials.require_clean_values(run_dir)
        record = trials.record(run_dir)
        if len(record["kills"]) != 1 or record["restarts"] != 1 or not record["kills"][0]["ended"]:
            raise Failed(f"{record['kills']}, {record['restarts']} restarts")
        return f"from {record['loaded_iteration']}"

    return trial


def during_the_save(trials: Trials, run_dir: Path) -> str:
    """A rank killed from outside as soon as the second checkpoint has files, before it is complete."""
    process = start(trials.command(run_dir, "--max-restarts", "1"))
    folder = run_dir / "checkpoints" / "iter_0000008"
    wait_until(lambda: any(folder.glob("*.distcp")), process)
    victim = attempts.processes(run_dir / "phase1")[0][3]
    os.kill(victim, signal.SIGKILL)
    newest = (run_dir / TRACKER).read_text()
    output, _ = process.communicate()
    if process.returncode:
        raise Failed(output[-2000:])
    trials.require_clean_values(run_dir)
    record = trials.record(run_dir)
    if newest != "4" or record["loaded_iteration"] != 4 or record["restarts"] != 1:
        raise Failed(f"newest {newest}, loaded {record['loaded_iteration']}, {record['restarts']} restarts")
    return "from 4, 8 half-written"


def agent(number: signal.Signals) -> Callable[[Trials, Path], str]:
    """The elastic agent gets a signal; everything must end, and what is left must be fit to go on from."""

    def trial(trials: Trials, run_dir: Path) -> str:
        process = start(trials.command(run_dir))
        wait_until(lambda: (run_dir / TRACKER).is_file(), process)
        begin = time.monotonic()
        process.send_signal(number)
        process.communicate()
        while processes_of(run_dir):
            if time.monotonic() > begin + WITHIN_S:
                raise Failed(f"after {WITHIN_S} s there still run {processes_of(run_dir)}")
            time.sleep(0.02)
        ended_s = time.monotonic() - begin
        if process.returncode != (-9 if number == signal.SIGKILL else 130):
            raise Failed(f"exit code {process.returncode}")
        trials.train(run_dir, "--continue", expected=0)
        trials.require_clean_values(run_dir)
        return f"from {trials.record(run_dir)['loaded_iteration']}, all ended in {ended_s:.1f} s"

    return trial


def three_in_a_row(trials: Trials, run_dir: Path) -> str:
    """The same rank killed in three attempts, with two restarts: given up, the checkpoint still there."""
    case = trials.case([{"after_step": 7, "ranks": [2]}] * 3)
    output = trials.train(run_dir, "--max-restarts", "2", expected=3, case=case)
    begun = len(attempts.processes(run_dir / "phase1"))
    if "given up after 2 restarts" not in output or begun != 3 or processes_of(run_dir):
        raise Failed(f"{begun} attempts: {output[-2000:]}")
    return f"exit 3 after 3 attempts, {(run_dir / TRACKER).read_text()} kept"


KINDS: dict[str, Callable[[Trials, Path], str]] = {
    "one rank": crash(2),
    "the rank that writes the scalars": crash(7),
    "two ranks at once": crash(2, 5),
    "a rank during the asynchronous save": during_the_save,
    "the elastic agent": agent(signal.SIGKILL),
    "the task stopped with SIGTERM": agent(signal.SIGTERM),
    "a rank three times in a row": three_in_a_row,
}


def start(command: Sequence[str]) -> subprocess.Popen:
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    while not condition():
        if process.poll() is not None:
            raise Failed(f"ended too early: {process.stdout.read()[-2000:]}")
        time.sleep(0.002)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder))
        print("| what is killed | survived | how | seconds, median |\n|---|---:|---|---:|", flush=True)
        for kind in options.only:
            seconds, told = [], []
            for index in range(options.times):
                begin = time.monotonic()
                try:
                    told.append(KINDS[kind](trials, Path(folder, f"{kind.replace(' ', '-')}-{index}")))
                except Failed as failure:
                    failures += 1
                    print(f"{kind}: {failure}", file=sys.stderr, flush=True)
                seconds.append(time.monotonic() - begin)
            how = "; ".join(sorted(set(told)))
            middle = statistics.median(seconds)
            print(f"| {kind} | {len(told)} of {options.times} | {how} | {middle:.0f} |", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
