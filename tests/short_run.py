"""The main case cut to four iterations on the CPU: real training, real restart, in seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from tasks.util.files import REPOSITORY

CASE = "gpt3_pp4_resume"
SHORT = ("--set", "exit-interval=4", "--set", "save-interval=2")


def command(task: str, run_dir: Path, *options: object, case: str | Path = CASE) -> list[str]:
    """The command line of a phase of the short run."""
    words = [sys.executable, "-m", f"tasks.{task}", str(case), "--run-dir", str(run_dir), *SHORT]
    return [*words, *map(str, options)]


def run(
    task: str, run_dir: Path, *options: object, case: str | Path = CASE, timeout: float = 240
) -> subprocess.CompletedProcess:
    """Run a phase of the short run to its end."""
    return subprocess.run(
        command(task, run_dir, *options, case=case),
        cwd=REPOSITORY,
        env={**os.environ, "CRASH_TEST_DEVICE": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def processes_of(run_dir: Path) -> list[psutil.Process]:
    """Every process that has a file of the run open, or names it on its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            paths = [file.path for file in process.open_files()] + process.cmdline()
        except psutil.Error:
            continue
        if any(str(run_dir) in path for path in paths):
            found.append(process)
    return found
