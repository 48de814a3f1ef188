"""Exit codes of every task and session, and the errors that lead to them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

PASSED = 0
MISMATCH = 1
USAGE = 2
TRAINING_FAILED = 3
HANG = 4
CANNOT_RUN = 5


class TaskError(Exception):
    """An error whose message tells the user what happened, where, and what to do next."""

    exit_code = USAGE


class UsageError(TaskError):
    """Bad usage or input: unknown case or flag, malformed file, no golden card."""

    exit_code = USAGE


class TrainingFailed(TaskError):
    """A rank failed, or gave no result."""

    exit_code = TRAINING_FAILED


class Hang(TaskError):
    """No rank made progress for longer than the watchdog allows."""

    exit_code = HANG


class CannotRun(TaskError):
    """This machine lacks what the case needs."""

    exit_code = CANNOT_RUN


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run ``main`` and exit with its code, or with that of the ``TaskError`` it raises, which is printed."""
    try:
        code = main()
    except TaskError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)
