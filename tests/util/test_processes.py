"""A process that is not to outlive its parent asks for the right signal, and ends if it asked too late."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tasks.util.files import REPOSITORY
from tests.program import started_anew


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("parent", ["own", "gone", "unknown"])
def test_it_ends_with_its_parent_also_if_that_was_gone_before_it_asked(number: int, parent: str) -> None:
    ended = started_anew("processes.end_with", int(number), parent)
    expected = (-number, None) if parent == "gone" else (0, int(number))
    assert (ended.exit_code, ended.answer) == expected, ended.stderr


def test_a_process_that_is_to_be_killed_first_says_so_to_the_kernel() -> None:
    program = "from tasks.util.processes import be_killed_first as ask; ask(); print(open('{}').read())"
    command = [sys.executable, "-c", program.format("/proc/self/oom_score_adj")]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert int(ended.stdout) == 500
