"""Steps of cases as processes. The fork server imports torch and megatron once and forks training tasks.

Each task forks its ranks in turn. Used only for our own program on the CPU of one machine, and for cases with
the same environment variables; all others run in a new Python.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from typing import IO, Protocol

from tasks.cases.loader import load_case, parse_settings
from tasks.launch import trainer
from tasks.launch.imports import ImportSettings, new_random_state, preload
from tasks.machine import platforms
from tasks.machine.platforms import Platform
from tasks.suite.steps import TRAINING_TASKS, Step
from tasks.util.exits import SESSION_VARIABLE, TaskError, environment_of_a_task

_POLL_S = 0.02
_STOPS = (signal.SIGINT, signal.SIGTERM)


class StepProcess(Protocol):
    """The part of ``subprocess.Popen`` that is used."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...


def start_anew(step: Step, output: IO[str] | None) -> StepProcess:
    """A new Python, in a session of its own: Ctrl-C reaches only this process, which stops each step once."""
    return subprocess.Popen(
        [sys.executable, *step.argv],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        env=environment_of_a_task(),
        start_new_session=True,
    )


class ForkServer:
    """The parent process of training tasks. ``cases``: those that it can fork."""

    def __init__(self, cases: Sequence[str], options: argparse.Namespace) -> None:
        settings = _import_settings(cases, options)
        self._wanted = next(iter(settings.values()), None)
        self.cases = [case for case, each in settings.items() if each == self._wanted]

    def import_once(self) -> None:
        """Import the modules that the ranks share. If that fails, nothing is forked: each task, in a
        new Python, reports the error itself.
        """
        if not self.cases:
            return
        before = dict(os.environ)
        os.environ.update(self._wanted.env_vars)  # in force for the import; the steps set what they need
        try:
            preload(self._wanted)
        except Exception:
            traceback.print_exc()
            self.cases = []
        finally:
            os.environ.clear()
            os.environ.update(before)

    def start(self, case: str, step: Step, output: IO[str] | None) -> StepProcess:
        """Start a step of ``case``: forked from this process if possible, else by ``start_anew``."""
        if case in self.cases and step.task in TRAINING_TASKS:
            return _Forked(step, output)
        return start_anew(step, output)


def _import_settings(cases: Sequence[str], options: argparse.Namespace) -> dict[str, ImportSettings]:
    """The import settings of each case that can be forked from here."""
    platform, found = _platform_to_share(options), {}
    for case in cases if platform else ():
        with contextlib.suppress(TaskError):  # reported by its task
            settings = {"platform_name": platform.name, "world_size": platform.world_size}
            loaded = load_case(case, **settings, overrides=parse_settings(options.set))
            found[case] = ImportSettings(device=platform.device, env_vars=platform.variables(loaded.env_vars))
    return found


def _platform_to_share(options: argparse.Namespace) -> Platform | None:
    if options.nodes.several or options.retries or options.baseline or options.case_file:
        return None
    with contextlib.suppress(TaskError):  # reported by the tasks
        platform = platforms.detect()
        return platform if platform.device == "cpu" and trainer.choose(options).own else None
    return None


class _Forked:
    """A task in a process forked from this one; used like a ``subprocess.Popen``."""

    def __init__(self, step: Step, output: IO[str] | None) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_run, args=(step, output, os.getpid()))
        # The child would lose a signal that arrives between the fork and its own handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Raises ``subprocess.TimeoutExpired`` when it still runs after ``timeout`` seconds."""
        deadline_s = None if timeout is None else time.monotonic() + timeout
        # Not "join": it waits for a pipe that descendants of the task also hold open.
        while (code := self.poll()) is None:
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise subprocess.TimeoutExpired(self._process.name, timeout)
            time.sleep(_POLL_S)
        return code

    def terminate(self) -> None:
        self._process.terminate()


def _run(step: Step, output: IO[str] | None, parent: int) -> None:
    """Run the task in the forked process, as ``python -m`` would."""
    os.setsid()
    for number in _STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for stream in (1, 2) if output else ():
        os.dup2(output.fileno(), stream)
    new_random_state()
    os.environ[SESSION_VARIABLE] = str(parent)
    sys.argv = step.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
