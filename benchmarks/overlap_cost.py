"""What our own scalars cost: the main case with and without the evidence of overlap, and the resources.

``python benchmarks/overlap_cost.py [--rounds R] [--steps N] [--out FILE]`` exits 1 when the evidence of
overlap costs more than ``--target`` of a step. Judged is the direct measure, calls a step times the cost of a
call. The difference of whole trainings, in turns, is shown with its 95 % confidence interval, by the clock
and in processor seconds, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tasks import platforms  # noqa: E402
from tasks.events import read_log_times  # noqa: E402
from tasks.exits import TrainingFailed, exit_with  # noqa: E402

CASE, RANKS, WARM_UP_STEPS = "gpt3_pp4_resume", 8, 5
PLUGINS = REPOSITORY / "benchmarks" / "rank_plugins"
AS_IT_IS = "as it is"
CLOCK, PROCESSOR = "wall", "processor, all ranks"
KINDS = {
    AS_IT_IS: (),
    "without overlap's evidence": (PLUGINS / "without_overlap.py",),
    "without resources": (PLUGINS / "without_resources.py",),
}
Steps = dict[str, np.ndarray]  # seconds of each step after the first ones, by the name of the measure
RESAMPLES, CALLS = 2000, 20_000
HANDLES = 8  # communications of a rank in a step, more than there are


def train(run_dir: Path, steps: int, *plugins: Path) -> Steps:
    """Seconds from step to step of a run: by the clock, and of all ranks' processors."""
    seconds_dir = run_dir.with_name(f"{run_dir.name}-seconds")
    seconds_dir.mkdir()
    command = [sys.executable, "-m", "tasks.train", CASE, "--run-dir", str(run_dir)]
    command += ["--set", f"exit-interval={steps}"]
    for plugin in (*plugins, PLUGINS / "processor_seconds.py"):
        command += ["--rank-plugin", str(plugin)]
    env = {**os.environ, "SECONDS_DIR": str(seconds_dir)}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrainingFailed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    logged = read_log_times(run_dir / "phase1" / "tensorboard", "lm loss")
    used = [json.loads(path.read_text()) for path in seconds_dir.glob("rank*.json")]
    if len(used) != RANKS:
        raise TrainingFailed(f"{run_dir}: {len(used)} ranks of {RANKS} left their processor seconds")
    return {
        CLOCK: np.diff([logged[step] for step in range(WARM_UP_STEPS, steps + 1)]),
        PROCESSOR: np.diff(np.sum(used, axis=0)[WARM_UP_STEPS - 1 :]),
    }


def difference(with_it: list[np.ndarray], without: list[np.ndarray]) -> tuple[float, float, float]:
    """What it costs, as a part of a step, and the ends of its 95 % confidence interval.

    The median over the rounds of (median step with it / median step without it) - 1; the interval is that of
    a bootstrap that draws rounds, and steps within each run.
    """
    random = np.random.default_rng(1)

    def cost(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.median([np.median(one) / np.median(other) - 1.0 for one, other in pairs]))

    pairs = list(zip(with_it, without, strict=True))
    drawn = []
    for _ in range(RESAMPLES):
        rounds = random.integers(len(pairs), size=len(pairs))
        drawn.append(cost([tuple(random.choice(run, run.size) for run in pairs[index]) for index in rounds]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return cost(pairs), float(low), float(high)


def middle(runs: list[Steps], measure: str) -> float:
    """The median over the runs of their median step, in seconds."""
    return statistics.median(float(np.median(run[measure])) for run in runs)


class _Group:
    """A bucket group whose communications do nothing, so that what remains is the cost of watching them."""

    grad_reduce_handle: Any = None
    param_gather_handle: Any = None

    def __init__(self, handle: Callable[[], Any]) -> None:
        self._handle = handle

    def start_grad_sync(self) -> None:
        self.grad_reduce_handle = self._handle()

    def start_param_sync(self) -> None:
        self.param_gather_handle = self._handle()

    def register_grad_ready(self, parameter: Any, force: bool = False) -> None:
        pass

    def finish_param_sync(self, skip_next_bucket_dispatch: bool = False) -> None:
        pass


class _Handle:
    def wait(self) -> None:
        pass


def seconds_a_call() -> dict[str, float]:
    """What watching adds to one call, by the name of the watching method; and to one ``take`` of a step."""
    from tasks.ranks import cuda_on_cpu

    cuda_on_cpu.install()
    from tasks.ranks import overlap

    watch = overlap.Overlap([])
    plain, watched = _Group(_Handle), _Group(lambda: overlap._WatchedHandle(_Handle()))
    watch._watch(watched)

    def start_and_wait(group: _Group, kind: str, handle: str) -> Callable[[], None]:
        def run() -> None:
            getattr(group, kind)()
            getattr(group, handle).wait()

        return run

    actions: dict[str, Callable[[_Group], Callable[[], None]]] = {
        "_register_grad_ready": lambda group: lambda: group.register_grad_ready(None, False),
        "_finish_param_sync": lambda group: lambda: group.finish_param_sync(skip_next_bucket_dispatch=False),
        "_start_grad_sync": lambda group: start_and_wait(group, "start_grad_sync", "grad_reduce_handle"),
        "_start_param_sync": lambda group: start_and_wait(group, "start_param_sync", "param_gather_handle"),
    }
    costs = {}
    for name, action in actions.items():
        with_it, without = (_least_seconds(action(group)) for group in (watched, plain))
        costs[name] = with_it - without
        watch.take()
    start = start_and_wait(watched, "start_grad_sync", "grad_reduce_handle")
    several = _least_seconds(lambda: [start() for _ in range(HANDLES)] and watch.take(), CALLS // 20)
    costs["take"] = several - HANDLES * _least_seconds(start, CALLS // 20)
    return costs


def _least_seconds(action: Callable[[], object], calls: int = CALLS) -> float:
    return min(timeit.repeat(action, number=calls, repeat=5)) / calls


def direct(run_dir: Path, steps: int, step_s: float) -> tuple[float, list[str]]:
    """Calls of all ranks a step, counted in a training, times the cost of one, over ``step_s``, the processor
    seconds of all ranks in a step; and the table of it.
    """
    folder = run_dir.with_name("counts")
    folder.mkdir()
    os.environ["COUNTS_DIR"] = str(folder)
    train(run_dir, steps, PLUGINS / "count_overlap_calls.py")
    counted = [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]
    if len(counted) != RANKS:
        raise TrainingFailed(f"{run_dir}: {len(counted)} ranks of {RANKS} left counts")
    costs = seconds_a_call()
    lines = ["| call | a step, all ranks | microseconds each |", "| --- | ---: | ---: |"]
    total_s = 0.0
    for name, cost_s in costs.items():
        calls = RANKS if name == "take" else sum(counts.get(name, 0) for counts in counted)
        lines.append(f"| `{name}` | {calls} | {cost_s * 1e6:.2f} |")
        total_s += calls * cost_s
    return total_s / step_s, lines


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--target", type=float, default=0.01, help="of a step, at most")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables there, too")
    options = parser.parse_args(words)
    if options.rounds < 1 or not WARM_UP_STEPS + 1 < options.steps < 50:
        parser.error(f"give at least 1 round, and from {WARM_UP_STEPS + 2} to 49 steps: a save is at 50")
    return options


def heading(options: argparse.Namespace) -> list[str]:
    """What is measured, where and when; and the head of the table."""
    return [
        f"`{CASE}`, {RANKS} ranks, {options.steps} steps, {options.rounds} rounds in turns, on"
        f" {os.cpu_count()} cores ({platforms.read_processor().model}), {time.strftime('%Y-%m-%d')}, Python"
        f" {platform.python_version()}, commit {platforms.git_commit()}. Load average before:"
        f" {os.getloadavg()[0]:.1f}.",
        "",
        "| seconds | what | median step | cost of it | 95 % confidence |",
        "| --- | --- | ---: | ---: | --- |",
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    options = arguments(words)
    os.environ["CRASH_TEST_DEVICE"] = "cpu"
    lines = heading(options)
    runs: dict[str, list[Steps]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for index, (kind, plugins) in list(enumerate(KINDS.items()))[:: -1 if number % 2 else 1]:
                runs[kind].append(train(Path(folder, f"{number}-{index}"), options.steps, *plugins))
                told = ", ".join(f"{np.median(steps):.4f} s {name}" for name, steps in runs[kind][-1].items())
                print(f"round {number + 1}, {kind}: median step {told}", flush=True)
        step_s = middle(runs[AS_IT_IS], PROCESSOR)
        part, calls = direct(Path(folder, "counted"), WARM_UP_STEPS + 2, step_s)
    for measure, kind in itertools.product((CLOCK, PROCESSOR), KINDS):
        with_it, without = ([run[measure] for run in runs[name]] for name in (AS_IT_IS, kind))
        cost, low, high = difference(with_it, without)
        shown = " | " if kind == AS_IT_IS else f"{cost:+.2%} | {low:+.2%} to {high:+.2%}"
        lines.append(f"| {measure} | {kind} | {middle(runs[kind], measure):.4f} s | {shown} |")
    verdict = "met" if part <= options.target else "MISSED"
    told = f"The evidence of overlap, directly: {part:.2%} of a step; at most {options.target:.0%}: {verdict}"
    text = "\n".join([*lines, "", told, "", *calls]) + "\n"
    print("\n" + text)
    if options.out:
        options.out.write_text(text)
    return int(part > options.target)


if __name__ == "__main__":
    exit_with(main)
