"""A program that a test runs in a process of its own, since it changes torch for good; it answers in JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tasks.util.files import REPOSITORY

LIMIT_S = 240  # a healthy one imports torch and megatron-core, and computes little


def answer_of(program: str, *words: str) -> Any:
    """What the last line of ``program``'s output holds; it must have ended well."""
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
