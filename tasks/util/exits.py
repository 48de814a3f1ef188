"""Exit codes of tasks and sessions, and the errors that lead to them."""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from tasks.util.processes import end_with_parent

PASSED = 0
MISMATCH = 1
USAGE = 2
TRAINING_FAILED = 3
HANG = 4
CANNOT_RUN = 5
INTERRUPTED = 128 + signal.SIGINT  # the shell's code for Ctrl-C
# The shell's code for SIGPIPE: whoever read the output (``| head``) closed it before the task had ended. A
# task that had ended, and only had output left, keeps its own code.
UNREAD = 128 + signal.SIGPIPE
MEANINGS = {
    MISMATCH: "does not match",
    USAGE: "bad usage or input",
    TRAINING_FAILED: "training failed",
    HANG: "hang",
    CANNOT_RUN: "this machine cannot run it",
}
SESSION_VARIABLE = "CRASH_TEST_SESSION"  # the process id of the session that started a task


class TaskError(Exception):
    """An error whose message says what happened, where, and what to do next."""

    exit_code = USAGE


class UsageError(TaskError):
    """Bad usage or input: unknown case or flag, malformed file, no golden card."""


class TrainingFailed(TaskError):
    """A rank failed or returned no result."""

    exit_code = TRAINING_FAILED


class Hang(TaskError):
    """No rank made progress for longer than the watchdog allows."""

    exit_code = HANG


class CannotRun(TaskError):
    """This machine lacks what the case needs."""

    exit_code = CANNOT_RUN


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run ``main`` and exit with its code, or print its error and exit with the error's code."""
    code = _code_of(main)
    try:
        if sys.stdout:  # None where it was closed from the start
            sys.stdout.flush()
    except BrokenPipeError:  # what is left is of no use: Python would try it again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _code_of(main: Callable[[], int]) -> int | str | None:
    try:
        return main()
    except SystemExit as end:  # of argparse
        return end.code
    except TaskError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    except PermissionError as error:
        print(f"error: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        return USAGE
    except Exception as error:  # Python would exit with 1, which means a mismatch
        return _crashed(error, USAGE)


def _crashed(error: Exception, code: int) -> int:
    """Print the traceback and return ``code``, unless nobody reads the output any more."""
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return UNREAD
    traceback.print_exception(error)
    return code


def environment_of_a_task() -> dict[str, str]:
    """The environment of a task whose session is this process."""
    return {**os.environ, SESSION_VARIABLE: str(os.getpid())}


def run_to_end(task: Callable[[], int]) -> int:
    """Run a task that trains; its exit code. After Ctrl-C or SIGTERM it returns when its ranks have ended."""
    if os.environ.get(SESSION_VARIABLE) == str(os.getppid()):  # a killed session cannot stop its task
        end_with_parent(signal.SIGTERM)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        return task()
    except KeyboardInterrupt as stop:
        print(f"error: {str(stop) or 'stopped by Ctrl-C'}; the ranks have ended", file=sys.stderr)
        return INTERRUPTED
    except TaskError:
        raise
    except Exception as error:  # Python would exit with 1, which means a mismatch
        return _crashed(error, TRAINING_FAILED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _nobody_reads() -> bool:
    """True when standard output is a pipe or socket whose reader has closed it."""
    output = select.poll()
    output.register(1, 0)  # errors are reported without being asked for
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in output.poll(0))


def _stop(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")
