"""Our trainer against Megatron-LM's own loop: the same Python, case and flags, in turns, on a CPU.

``python benchmarks/against_megatron_lm.py --megatron-lm PATH [--steps N] [--rounds R] [--out FILE]`` exits 1
when a ratio misses its target, and when the programs do not train the same to the last bit. Run it on a quiet
machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tasks.launch import imports, phase, trainer  # noqa: E402
from tasks.launch.options import add_phase_arguments  # noqa: E402
from tasks.launch.setup import Setup, prepare  # noqa: E402
from tasks.launch.trainer import TrainerUnderTest  # noqa: E402
from tasks.machine import platforms  # noqa: E402
from tasks.records.card import Card  # noqa: E402
from tasks.records.events import (  # noqa: E402
    read_events,
    read_log_times,
)
from tasks.util.exits import TrainingFailed, exit_with  # noqa: E402

CASE = "gpt3_pp4_resume"
OURS, TORCHRUN, LAUNCHER = "our trainer", "Megatron-LM by torchrun", "Megatron-LM by our launcher"
PROGRAMS = (OURS, TORCHRUN, LAUNCHER)
RANK_PROGRAM = REPOSITORY / "benchmarks" / "megatron_lm_by_torchrun.py"
WARM_UP_STEPS = 5
MAX_STEPS = 49  # the case saves at 50, and a save is no step
RUN_LIMIT_S = 900
EQUAL = ("lm loss", "grad-norm", "num-zeros", "learning-rate")
# Ours is summed over the ranks in fp64, Megatron-LM's in fp32.
NEARLY_EQUAL, RELATIVE_DIFFERENCE = "params-norm", 1e-6


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training. ``first_step_s``: from the command to the log of step 1. ``wall_s``: the time from the
    log of the last warm-up step to that of the last step, over their steps, so with all that happens between
    steps. ``iteration_s``: the median of what the program itself logs as iteration-time.
    """

    first_step_s: float
    wall_s: float
    iteration_s: float
    values: Card


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measure of ours over that of an opponent: medians in seconds, and the ratio of each round."""

    measure: str
    opponent: str
    ours_s: float
    theirs_s: float
    ratios: tuple[float, ...]
    target: float | None  # None: shown, not judged

    @property
    def ratio(self) -> float:
        """The median of the rounds: what drifts from round to round does not count."""
        return statistics.median(self.ratios)

    @property
    def passed(self) -> bool:
        return self.target is None or self.ratio <= self.target


def train(program: str, checkout: Path, run_dir: Path, steps: int) -> Trial:
    """Run one program to its end. Errors: ``TrainingFailed`` with the end of what it said."""
    words = [CASE, "--run-dir", str(run_dir), "--set", f"exit-interval={steps}"]
    # Bytecode is kept, as it is for users: otherwise every rank of torchrun would compile all of torch.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "tasks.train", *words]
    if program != OURS:
        command += ["--megatron-lm", str(checkout)]
    if program == TORCHRUN:
        setup = prepared([*words, "--megatron-lm", str(checkout)])
        env |= {**setup.platform.env_vars, **setup.case.env_vars}
        env["PYTHONPYCACHEPREFIX"] = str(imports.BYTECODE)  # no file of the checkout is written
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={setup.platform.world_size}", str(RANK_PROGRAM), str(checkout)]
        command += phase.phase_argv(setup, 1, None)
    run_dir.mkdir()
    begin = time.time()
    run_to_end(command, env, run_dir / "benchmark.log")
    return measured(run_dir / "phase1" / "tensorboard", begin, steps)


def prepared(words: list[str]) -> Setup:
    """What ``tasks.train`` makes of these words."""
    parser = argparse.ArgumentParser()
    add_phase_arguments(parser)
    return prepare(parser.parse_args(words))


def run_to_end(command: list[str], env: dict[str, str], log: Path) -> None:
    """Errors: ``TrainingFailed`` when it fails, or does not end in time; its ranks are ended, too."""
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            code: int | None = process.wait(RUN_LIMIT_S)
        except BaseException as error:
            process.terminate()  # torchrun and our launcher then end their ranks
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            code = None
    if code != 0:
        said = log.read_text()[-3000:]
        how = f"did not end in {RUN_LIMIT_S} s" if code is None else f"ended with exit code {code}"
        raise TrainingFailed(f"{' '.join(command[:4])} ... {how}:\n{said}")


def measured(events: Path, begin: float, steps: int) -> Trial:
    """Read what a training logged. ``begin``: when its command was given, in seconds since 1970."""
    (values, _), logged = read_events(events), read_log_times(events, "lm loss")
    if sorted(logged) != list(range(1, steps + 1)):
        raise TrainingFailed(f"{events}: logged {len(logged)} steps of {steps}")
    own = values.metrics["iteration-time"]
    return Trial(
        first_step_s=logged[1] - begin,
        wall_s=(logged[steps] - logged[WARM_UP_STEPS]) / (steps - WARM_UP_STEPS),
        iteration_s=statistics.median(own.values[own.steps > WARM_UP_STEPS].tolist()),
        values=values,
    )


def differences(ours: Card, theirs: Card) -> list[str]:
    """How two trainings differ; nothing when they train the same."""
    found = []
    for name in (*EQUAL, NEARLY_EQUAL):
        if name not in ours.metrics or name not in theirs.metrics:
            found.append(f"{name}: not logged by both")
            continue
        one, other = (
            dict(zip(metric.steps.tolist(), metric.values.tolist(), strict=True))
            for metric in (ours.metrics[name], theirs.metrics[name])
        )
        allowed = RELATIVE_DIFFERENCE if name == NEARLY_EQUAL else 0.0
        if one.keys() != other.keys():
            found.append(f"{name}: other steps")
            continue
        apart = [step for step in one if not abs(one[step] - other[step]) <= allowed * abs(one[step])]
        if apart:
            first = min(apart)
            found.append(
                f"{name}: {len(apart)} steps differ, the first is {first}: {one[first]!r}, {other[first]!r}"
            )
    return found


def rows(trials: dict[str, list[Trial]], *, target_step: float, target_start: float) -> list[Row]:
    """Every measure against every opponent. The start is judged against torchrun: that is how Megatron-LM's
    users start it; our launcher gives Megatron-LM what makes our own start quick.
    """
    found = []
    for measure, field, targets in (
        ("wall seconds a step", "wall_s", {TORCHRUN: target_step, LAUNCHER: target_step}),
        ("iteration-time", "iteration_s", {TORCHRUN: target_step, LAUNCHER: target_step}),
        ("command to first step", "first_step_s", {TORCHRUN: target_start}),
    ):
        ours = [getattr(trial, field) for trial in trials[OURS]]
        for opponent in (TORCHRUN, LAUNCHER):
            theirs = [getattr(trial, field) for trial in trials[opponent]]
            row = Row(
                measure=measure,
                opponent=opponent,
                ours_s=statistics.median(ours),
                theirs_s=statistics.median(theirs),
                ratios=tuple(one / other for one, other in zip(ours, theirs, strict=True)),
                target=targets.get(opponent),
            )
            found.append(row)
    return found


def table(found: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| measure | against | ours | theirs | ratio | ratio of each round | at most | verdict |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for row in found:
        rounds = ", ".join(f"{ratio:.2f}" for ratio in row.ratios)
        target = "" if row.target is None else f"{row.target:.2f}"
        verdict = "not judged" if row.target is None else "met" if row.passed else "MISSED"
        lines.append(
            f"| {row.measure} | {row.opponent} | {row.ours_s:.3f} s | {row.theirs_s:.3f} s | {row.ratio:.2f}"
            f" | {rounds} | {target} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def heading(options: argparse.Namespace, tested: TrainerUnderTest, load: float) -> str:
    """What was measured, where and when; ``load``: of the machine before the first run."""
    versions = ", ".join(f"{name} {platforms.installed_version(name)}" for name in ("torch", "megatron-core"))
    return (
        f"`{CASE}`, 8 ranks, {options.steps} steps, {options.rounds} rounds in turns, on {os.cpu_count()}"
        f" cores ({platforms.read_processor().model}), {time.strftime('%Y-%m-%d')}."
        f" Python {platform.python_version()}, {versions}, Megatron-LM {tested.version[:12]}, this repository"
        f" {platforms.git_commit()}."
        f" Load average before the first run: {load:.1f}.\n"
    )


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megatron-lm", type=Path, required=True, metavar="PATH", help="a checkout")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--target-step", type=float, default=1.0, help="ours over theirs, seconds a step")
    parser.add_argument("--target-start", type=float, default=0.5, help="the same, command to first step")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args(words)
    if options.rounds < 1 or not WARM_UP_STEPS < options.steps <= MAX_STEPS:
        parser.error(f"give at least 1 round, and more than {WARM_UP_STEPS} steps, at most {MAX_STEPS}")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    options = arguments(words)
    checkout = options.megatron_lm.resolve()
    tested = trainer.choose(argparse.Namespace(megatron_lm=checkout, trainer=None, subject=None))
    os.environ["CRASH_TEST_DEVICE"] = "cpu"
    text = heading(options, tested, os.getloadavg()[0])
    trials: dict[str, list[Trial]] = {program: [] for program in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        for program in PROGRAMS:  # not counted: it fills the caches of bytecode, data and files
            train(program, checkout, Path(folder, f"first-{PROGRAMS.index(program)}"), WARM_UP_STEPS + 1)
        for number in range(options.rounds):
            for index, program in list(enumerate(PROGRAMS))[:: -1 if number % 2 else 1]:
                trial = train(program, checkout, Path(folder, f"{number}-{index}"), options.steps)
                trials[program].append(trial)
                print(
                    f"round {number + 1}, {program}: first step after {trial.first_step_s:.2f} s,"
                    f" {trial.wall_s:.4f} s a step, iteration-time {trial.iteration_s:.4f} s",
                    flush=True,
                )
                if apart := differences(trials[OURS][0].values, trial.values) if trials[OURS] else []:
                    print(
                        f"{program} does not train the same as ours, so nothing is compared:",
                        *apart,
                        sep="\n  ",
                    )
                    return 1
    found = rows(trials, target_step=options.target_step, target_start=options.target_start)
    text += "\n" + table(found)
    print("\n" + text)
    if options.out:
        options.out.write_text(text)
    return int(not all(row.passed for row in found))


if __name__ == "__main__":
    exit_with(main)
