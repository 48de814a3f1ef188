"""Tasks forked by the suite's fork server, or functions in their place."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from collections.abc import Callable

from tasks.suite import fork_server
from tasks.suite.steps import Step
from tasks.util.exits import run_to_end


def _fork(work: Callable[[], object]) -> fork_server._Forked:
    """Fork a process that does this instead of a task."""
    fork_server.new_random_state = lambda: None  # it would import torch
    runpy.run_module = lambda *_, **__: work()
    return fork_server._Forked(Step(task="train", arguments=()), None)


def exit_codes_of_a_task() -> list[int]:
    """Exit codes of tasks.train with --help, and without what it needs."""
    fork_server.new_random_state = lambda: None
    steps = [Step(task="train", arguments=(argument,)) for argument in ("--help", "no_such")]
    return [fork_server._Forked(step, None).wait(20) for step in steps]


def fork_and_wait() -> None:
    """Fork a task that does not end by itself."""
    _fork(lambda: run_to_end(lambda: print("ready", flush=True) or time.sleep(60))).wait()


def exit_code_of_a_stop_at_once() -> int:
    """The exit code of a child that is stopped before it has handlers of its own."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
    return _fork(lambda: time.sleep(60)).wait(20)


def draws_of_two_tasks() -> None:
    """Print torch's seed and a number of NumPy's in each of two tasks."""
    import numpy
    import torch

    def draw(*_: object, **__: object) -> None:
        print(torch.initial_seed(), numpy.random.random(), flush=True)
        sys.stdout.flush()

    runpy.run_module = draw
    torch.rand(1)  # both generators are there before anything is forked
    numpy.random.random()
    for _ in range(2):
        fork_server._Forked(Step(task="train", arguments=()), None).wait()
