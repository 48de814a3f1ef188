"""Inject known faults and report which check detects each. A fault changes megatron-core or the trainer.

``python -m tasks.faults [NAME ...] --work-dir DIR`` trains a few steps with each fault and compares them, by
``tasks.diff``, with the golden card or, if there is none of this kind of processor, with a clean run. A fault
of the restart (``resume_...``) restarts that clean run. A control without a fault must raise no alarm.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.judge.rows import GOLDEN, RESTART, RESUME
from tasks.launch import setup
from tasks.machine import platforms
from tasks.records import card_store
from tasks.suite import jobs
from tasks.suite.steps import Step
from tasks.util.exits import (
    MISMATCH,
    PASSED,
    CannotRun,
    TaskError,
    UsageError,
    exit_with,
    run_to_end,
)
from tasks.util.files import REPOSITORY

FAULTS = REPOSITORY / "tests" / "faults"
TRAINING_STEPS = 12  # memory growth shows last: it counts from step 5 on
REFERENCE_STEPS = 60  # ten beyond the checkpoint, five of them after the warm-up
COMPARED = {True: (RESTART, RESUME), False: (GOLDEN,)}  # by Fault.resumes


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A rank plugin that breaks something; ``plugin``: None for the control."""

    name: str
    plugin: Path | None
    resumes: bool

    @property
    def description(self) -> str:
        if self.plugin is None:
            return "no fault: nothing may be found"
        return (ast.get_docstring(self._program()) or self.name).splitlines()[0]

    def obstacle(self, device: str, replicas: int) -> str | None:
        """The reason, from the plugin's ``NEEDS``, why the fault has no effect here; None if it has one."""
        assigned = [node for node in self._program().body if isinstance(node, ast.Assign)]
        needs = [node.value.value for node in assigned if ast.unparse(node.targets[0]) == "NEEDS"]
        if "replicas" in needs and replicas == 1:
            return "there is one data-parallel replica"
        if "cpu" in needs and device != "cpu":
            return "it is one of CPUs"
        return None

    def _program(self) -> ast.Module:
        return ast.parse(self.plugin.read_text() if self.plugin else "")


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of one injected fault. ``caught_by``: comparison and metric of the first failing row.
    ``error``: the reason why nothing was compared.
    """

    fault: Fault
    caught_by: str = ""
    other_rows: int = 0
    first_step: int | None = None
    seconds: float
    error: str = ""

    @property
    def as_wanted(self) -> bool:
        return not self.error and bool(self.caught_by) == (self.fault.plugin is not None)

    @property
    def found(self) -> str:
        """The error, the rows that caught the fault, or "nothing"."""
        more = f" and {self.other_rows} more" if self.other_rows else ""
        nothing = "nothing" if self.fault.plugin else "nothing, rightly"
        return self.error or (f"{self.caught_by}{more}" if self.caught_by else nothing)


def known_faults(folder: Path = FAULTS) -> list[Fault]:
    """All plugins of a folder: those of training, then those of the restart."""
    paths = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]
    faults = [Fault(name=path.stem, plugin=path, resumes=path.stem.startswith("resume_")) for path in paths]
    return sorted(faults, key=lambda fault: fault.resumes)


def chosen_faults(names: Sequence[str], known: Sequence[Fault]) -> list[Fault]:
    """The faults with these names (default: all); each kind begins with its control.

    Raises:
        UsageError: an unknown name; the message lists the known ones.
    """
    unknown = sorted(set(names) - {fault.name for fault in known})
    if unknown:
        raise UsageError(f"no such fault: {', '.join(unknown)}; known: {', '.join(f.name for f in known)}")
    chosen = []
    for resumes in (False, True):
        kind = [f for f in known if f.resumes == resumes and (not names or f.name in names)]
        if kind:
            control = Fault(name="control_resume" if resumes else "control", plugin=None, resumes=resumes)
            chosen += [control, *kind]
    return chosen


def check_reference(run_dir: Path, case: str) -> None:
    """Refuse a reference run that is not a complete, clean training of the case with a checkpoint.

    Raises:
        UsageError: the run does not qualify.
    """
    for name in ("case.json", "phase1.json", "actual_phase1.json", "checkpoints", "data_cache"):
        if not (run_dir / name).exists():
            raise UsageError(f"--reference {run_dir}: is no finished training, it has no {name}")
    content = card_store.read_json_object(run_dir / "case.json")
    if content.get("case_name") != case:
        raise UsageError(f"--reference {run_dir}: is a run of {content.get('case_name')}, not of {case}")
    record = card_store.read_json_object(run_dir / "phase1.json")
    if record.get("rank_plugins") != {}:
        raise UsageError(f"--reference {run_dir}: was trained with rank plugins; a clean run is needed")


def fitting(faults: Sequence[Fault], device: str, replicas: int) -> list[Fault]:
    """The faults that have an effect on this platform; for the others the reason is printed.

    Raises:
        CannotRun: only controls are left.
    """
    kept = []
    for fault in faults:
        if reason := fault.obstacle(device, replicas):
            print(f"{fault.name}: skipped, since {reason}", flush=True)
        else:
            kept.append(fault)
    if not any(fault.plugin for fault in kept):
        raise CannotRun("none of these faults would break anything on this machine: choose others")
    return kept


class Runner:
    """Runs each task in a process of its own, as users do."""

    def __init__(self, case: str, work_dir: Path, reference: Path | None) -> None:
        self.case = case
        self.work_dir = work_dir
        self._reference = reference

    def reference(self) -> Path:
        """A clean run that goes beyond its checkpoint; trained once.

        Raises:
            TaskError: it cannot be trained.
        """
        if self._reference is None:
            self._reference = self.work_dir / "reference"
            steps = f"exit-interval={REFERENCE_STEPS}"
            self._run("the clean run", "train", self._reference, "--set", steps)
        return self._reference

    def try_out(self, fault: Fault) -> Result:
        """Train or restart with the fault, and compare.

        Raises:
            TaskError: a phase failed, because of the fault or for another reason.
        """
        begin = time.monotonic()
        run_dir = self.work_dir / fault.name
        if fault.resumes:
            self._restart(fault, run_dir)
        else:
            self._train(fault, run_dir)
        failing = self._compare(fault, run_dir)
        first = min(failing, key=_step_of, default=None)
        return Result(
            fault=fault,
            caught_by=f"{first['comparison']}: {first['metric']}" if first else "",
            other_rows=max(len(failing) - 1, 0),
            first_step=first["first_step"] if first else None,
            seconds=time.monotonic() - begin,
        )

    def _train(self, fault: Fault, run_dir: Path) -> None:
        steps = f"exit-interval={TRAINING_STEPS}"
        self._run(fault.name, "train", run_dir, "--set", steps, *_plugin_options(fault))

    def _restart(self, fault: Fault, run_dir: Path) -> None:
        reference = self.reference()
        run_dir.mkdir(parents=True)
        for name in ("case.json", "phase1.json", "actual_phase1.json"):
            shutil.copy(reference / name, run_dir)
        for name in ("checkpoints", "data_cache"):
            os.symlink(reference.resolve() / name, run_dir / name)
        steps = f"exit-interval={_last_step(reference)}"
        self._run(fault.name, "resume", run_dir, "--set", steps, *_plugin_options(fault))

    def _compare(self, fault: Fault, run_dir: Path) -> list[dict[str, object]]:
        """The failing rows of the comparison for this kind of fault, in the order of the table."""
        steps = () if fault.resumes else ("--steps", f"1-{TRAINING_STEPS}")
        serves = fault.resumes or self._card_serves(run_dir)
        card = () if serves else ("--golden", str(self.reference() / "actual_phase1.json"))
        self._run(f"{fault.name}: the comparison", "diff", run_dir, *steps, *card)
        rows = json.loads((run_dir / "report.json").read_text())["rows"]
        rows = [row for row in rows if row["comparison"] in COMPARED[fault.resumes]]
        if not rows:
            raise TaskError(f"{fault.name}: nothing was compared; see {run_dir}/report.txt")
        return [row for row in rows if not row["passed"]]

    def _card_serves(self, run_dir: Path) -> bool:
        """True when there is a card of this processor; times are not judged by a card of another one."""
        facts = json.loads((run_dir / "case.json").read_text())
        try:
            card = card_store.find_card(REPOSITORY, self.case, facts["environment"], facts["platform"])
        except UsageError:
            return False
        recorded = (card_store.read_provenance(card.path) or {}).get("fingerprint", {})
        return recorded.get("cpu") == facts["fingerprint"]["cpu"]

    def _run(self, what: str, task: str, run_dir: Path, *options: str) -> None:
        """Run a task of the case in ``run_dir``, which keeps its output.

        Raises:
            TaskError: it ended with neither a pass nor a mismatch.
        """
        step = Step(task=task, arguments=(self.case, "--run-dir", str(run_dir), *options))
        job = jobs.Job(case=self.case, steps=[step], run_dir=run_dir, quiet=True)
        code = jobs.run_alone(job)
        if code not in (PASSED, MISMATCH):
            error = TaskError(f"{what}: {job.last_error() or f'exit code {code}'}")
            error.exit_code = code
            raise error


def tried_out(runner: Runner, fault: Fault) -> Result:
    """The result of ``Runner.try_out``. An error does not count as a fault that was caught."""
    begin = time.monotonic()
    try:
        return runner.try_out(fault)
    except TaskError as error:
        return Result(fault=fault, seconds=time.monotonic() - begin, error=str(error))


def _plugin_options(fault: Fault) -> list[str]:
    return ["--rank-plugin", str(fault.plugin)] if fault.plugin else []


def _step_of(row: dict[str, object]) -> float:
    """Sort key: rows of the restart without a step come first, medians over several steps last."""
    step = row["first_step"]
    if isinstance(step, int):
        return step
    return 0 if row["comparison"] == RESTART else math.inf


def _last_step(run_dir: Path) -> int:
    return json.loads((run_dir / "phase1.json").read_text())["steps"][1]


def as_markdown(results: Sequence[Result]) -> str:
    """The table: fault, caught by, first step that shows it, seconds."""
    lines = ["| fault | caught by | first step | seconds |", "|---|---|---:|---:|"]
    for result in results:
        step = "" if result.first_step is None else str(result.first_step)
        found = result.found if result.as_wanted else f"**WRONG**: {result.found}"
        lines.append(f"| {result.fault.description} | {found} | {step} | {result.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Try all faults and print the table; ``MISMATCH`` if one is not caught or a control raises an alarm."""
    parser = argparse.ArgumentParser(prog="python -m tasks.faults", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a file of tests/faults (default: all)")
    parser.add_argument("--case", default="gpt3_pp4_resume", help="the case to break (%(default)s)")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="a clean run of the case to restart")
    parser.add_argument("--work-dir", type=Path, metavar="DIR", help="default: runs/faults/<time>")
    options = parser.parse_args(argv)
    faults = chosen_faults(options.names, known_faults())
    if not faults:
        raise UsageError(f"{FAULTS} contains no fault: there is nothing to try")
    platform = platforms.detect()
    faults = fitting(faults, platform.device, setup.data_parallel_size(options.case, platform))
    work_dir = options.work_dir or REPOSITORY / "runs" / "faults" / time.strftime("%Y%m%d-%H%M%S")
    if work_dir.exists() and not (work_dir.is_dir() and not any(work_dir.iterdir())):
        raise UsageError(f"{work_dir} is not an empty folder: choose another --work-dir, or remove it")
    if options.reference is not None:
        check_reference(options.reference, options.case)
    runner = Runner(options.case, work_dir.resolve(), options.reference)
    results = []
    print(f"{len(faults)} trials of {options.case} on {platform.name}; runs: {work_dir}", flush=True)
    for fault in faults:
        results.append(result := tried_out(runner, fault))
        mark = "ok   " if result.as_wanted else "WRONG"
        print(f"{mark} {fault.name}: {result.found} ({result.seconds:.0f} s)", flush=True)
    table = as_markdown(results)
    card_store.write_atomically(work_dir / "faults.md", table)
    print(f"\n{table}")
    return PASSED if all(result.as_wanted for result in results) else MISMATCH


if __name__ == "__main__":
    exit_with(functools.partial(run_to_end, main))
