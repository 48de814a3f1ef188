"""A process that is not to outlive its parent asks for the right signal, and ends if it asked too late."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tasks.util.files import REPOSITORY

PROGRAM = """
import ctypes, os, signal, sys
from tasks.util.processes import end_with_parent

number, parent = int(sys.argv[1]), {"own": os.getppid(), "gone": os.getpid(), "unknown": None}[sys.argv[2]]
end_with_parent(number, parent=parent)
asked = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(asked))  # PR_GET_PDEATHSIG of linux/prctl.h
print(asked.value)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("parent", ["own", "gone", "unknown"])
def test_it_ends_with_its_parent_also_if_that_was_gone_before_it_asked(number: int, parent: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(int(number)), parent]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    ended = (-number, "") if parent == "gone" else (0, f"{int(number)}\n")
    assert (done.returncode, done.stdout) == ended, done.stderr
