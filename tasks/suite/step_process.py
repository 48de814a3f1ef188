"""A step of a case as a process."""

from __future__ import annotations

import subprocess
import sys
from typing import IO, Protocol

from tasks.suite.steps import Step
from tasks.util.exits import environment_of_a_task


class StepProcess(Protocol):
    """What is used of a ``subprocess.Popen``."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...


def start_anew(step: Step, output: IO[str] | None) -> StepProcess:
    """A new Python, in a session of its own: Ctrl-C reaches this process alone, which asks each step once."""
    return subprocess.Popen(
        [sys.executable, *step.words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        env=environment_of_a_task(),
        start_new_session=True,
    )
