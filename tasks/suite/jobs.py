"""Jobs: cases that run in parallel, each step a process. A stop of this process ends all of them."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tasks.launch import failures
from tasks.machine import host_memory
from tasks.records import run_lock
from tasks.suite import steps
from tasks.suite.fork_server import ForkServer, StepProcess, start_anew
from tasks.suite.steps import Step

OUTPUT_FILE = "output.log"  # output of the steps, in the run directory
STOP_WITHIN_S = 6.0  # time for the steps to end their ranks before they are killed
_POLL_S = 0.05
_PROMPT = "$ python "


@dataclass
class Job:
    """A running case. ``quiet``: keep its output in the run directory instead of showing it. ``start``:
    starts the process of a step, given the file for its output if that is kept.
    """

    case: str
    steps: Sequence[Step]
    run_dir: Path
    quiet: bool
    start: Callable[[Step, IO[str] | None], StepProcess] = start_anew
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    _process: StepProcess | None = None
    _output: IO[str] | None = None
    _begun_s: float = 0.0
    _memory_kills: int = 0  # before it began
    _resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def exit_code(self) -> int:
        return steps.exit_code(self.codes)

    def begin(self) -> None:
        """Start the first step."""
        self._begun_s, self._memory_kills = time.monotonic(), host_memory.kills()
        self._resources.enter_context(run_lock.held(self.run_dir))
        if self.quiet:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self._output = self._resources.enter_context((self.run_dir / OUTPUT_FILE).open("a"))
        self._start(self.steps[0])

    def has_ended(self) -> bool:
        """True when all steps have ended; starts the next step when one has."""
        return_code = self._process.poll()
        if return_code is None:
            return False
        task = self.steps[len(self.codes)].task
        code = steps.code_of(task, return_code)
        if return_code == -signal.SIGKILL and host_memory.kills() > self._memory_kills:
            killed, output = failures.KILLED_FOR_MEMORY, self._output or sys.stdout
            print(f"error: tasks.{task} {host_memory.killed()}; {killed.cure}", file=output, flush=True)
            code = killed.exit_code
        self.codes.append(code)
        step = steps.following(self.steps, self.codes)
        if step is None:
            self._close()
        else:
            self._start(step)
        return step is None

    def show_output(self) -> None:
        """Print the kept output, after the case has ended."""
        if self.quiet:
            with (self.run_dir / OUTPUT_FILE).open(errors="replace") as file:
                shutil.copyfileobj(file, sys.stdout)
            sys.stdout.flush()

    def last_error(self) -> str:
        """The last error that the last step reported in the kept output; empty if there is none."""
        text = (self.run_dir / OUTPUT_FILE).read_text(errors="replace").rpartition(_PROMPT)[2]
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        return errors[-1].removeprefix("error: ") if errors else ""

    def _start(self, step: Step) -> None:
        print(f"{_PROMPT}{shlex.join(step.argv)}", file=self._output or sys.stdout, flush=True)
        self._process = self.start(step, self._output)

    def ask_to_stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def stop_by(self, deadline_s: float) -> None:
        """Wait until ``time.monotonic()`` reaches ``deadline_s``, then kill the step."""
        try:
            self._process.wait(timeout=max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._close()

    def _close(self) -> None:
        self.seconds = time.monotonic() - self._begun_s
        self._resources.close()


def run(
    jobs: Sequence[Job],
    limit: int,
    *,
    began: Callable[[Job], None],
    ended: Callable[[Job], bool],
) -> None:
    """Run ``jobs``, at most ``limit`` at once. No further job begins after ``ended`` returned False.

    Raises:
        KeyboardInterrupt: on SIGINT or SIGTERM, after all started processes have ended.
    """
    waiting, running = collections.deque(jobs), []
    with _noted_signals() as signals:
        try:
            while (waiting or running) and not signals:
                while waiting and len(running) < limit:
                    job = waiting.popleft()
                    began(job)
                    job.begin()
                    running.append(job)
                for job in [job for job in running if job.has_ended()]:
                    running.remove(job)
                    if not ended(job):
                        waiting.clear()
                time.sleep(_POLL_S)
        finally:
            _stop(running)
    if signals:
        raise KeyboardInterrupt(f"stopped by {signal.Signals(signals[0]).name}")


def job_of(case: str, options: argparse.Namespace, run_dir: Path, server: ForkServer, *, quiet: bool) -> Job:
    """The job of ``case``, whose steps ``server`` starts."""
    start = functools.partial(server.start, case)
    planned = steps.case_steps(case, options, run_dir)
    return Job(case=case, steps=planned, run_dir=run_dir, quiet=quiet, start=start)


def run_alone(job: Job) -> int:
    """Run one job and return its exit code. Raises ``KeyboardInterrupt`` as ``run`` does."""
    run([job], 1, began=lambda _: None, ended=lambda _: True)
    return job.exit_code


def _stop(running: Sequence[Job]) -> None:
    for job in running:
        job.ask_to_stop()
    deadline_s = time.monotonic() + STOP_WITHIN_S
    for job in running:
        job.stop_by(deadline_s)


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Note signals, to be handled between two steps: an exception anywhere else could lose a started process.
    A signal that is ignored from the start (Ctrl-C in the background) stays ignored.
    """
    noted: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: noted.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
