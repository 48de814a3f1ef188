"""Programs of tests/programs, run in a process of their own; they answer in JSON."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from tasks.util.files import REPOSITORY

LIMIT_S = 240  # a healthy one needs seconds, imports included


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A program that has ended. ``exit_code``: or minus a signal; ``answer``: None if it failed."""

    exit_code: int
    stdout: str
    stderr: str
    answer: Any


def answer_of(program: str, *arguments: Any) -> Any:
    """The answer of a program that is forked from the preloaded process; it must succeed."""
    finished = forked(program, *arguments)
    assert finished.exit_code == 0, finished.stderr
    return finished.answer


def forked(program: str, *arguments: Any, limit_s: int = LIMIT_S) -> Finished:
    """Run a program in a process that finds torch and megatron imported, and CUDA's stand-in in force."""
    with tempfile.TemporaryDirectory() as folder:
        request = {"program": program, "arguments": arguments, "folder": folder, "limit_s": limit_s}
        server = _preloaded()
        print(json.dumps(request | {"environment": dict(os.environ)}), file=server.stdin, flush=True)
        reply = server.stdout.readline()
        assert reply, f"the process that forks the programs has ended: {server.wait()}"
        return _finished(int(reply), Path(folder))


def started_anew(program: str, *arguments: Any, variables: Mapping[str, str] | None = None) -> Finished:
    """Run a program in a new Python, which has imported nothing. ``variables``: of its environment."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = command_of(program, arguments, folder / "answer")
        with open(folder / "stdout", "w") as stdout, open(folder / "stderr", "w") as stderr:
            environment = {**os.environ, **(variables or {})}
            ended = subprocess.run(
                command,
                cwd=REPOSITORY,
                env=environment,
                stdout=stdout,
                stderr=stderr,
                timeout=LIMIT_S,
                check=False,
            )
        return _finished(ended.returncode, folder)


def command_of(program: str, arguments: Sequence[Any], answer: Path) -> list[str]:
    """The command line that runs a program in a new Python, and writes its answer."""
    return [sys.executable, "-m", "tests.programs", program, json.dumps(arguments), str(answer)]


def child_ends_with_its_killed_parent(program: str) -> bool:
    """Kill a program once its one child has said "ready": whether the child ends, too."""
    command = command_of(program, [], Path(os.devnull))
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
        psutil.wait_procs([child], timeout=10)
        return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@cache
def _preloaded() -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.preloaded"]
    server = subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    atexit.register(server.communicate)  # closing its input ends it
    return server


def _finished(exit_code: int, folder: Path) -> Finished:
    texts = {name: (folder / name).read_text(errors="replace") for name in ("stdout", "stderr")}
    file = folder / "answer"
    answer = json.loads(file.read_text()) if file.exists() else None
    return Finished(exit_code=exit_code, answer=answer, **texts)
