"""Serve programs of tests: import torch and megatron once, and fork a child for each program.

A line of JSON on stdin asks for one; a line on stdout is its exit code, or minus the signal that ended it.
A child has environment variables, output files, a session and random states of its own, as a new process has.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from tasks.launch.imports import new_random_state
from tasks.ranks import cuda_on_cpu
from tasks.util.processes import end_with_parent
from tests.programs.__main__ import run

SHARED = (
    "tasks.ranks.pretrain",
    "torch._dynamo",
    "torch.testing._internal.distributed.fake_pg",
    "torch.utils.tensorboard",
)


def main() -> None:
    """Import, then serve until stdin ends."""
    end_with_parent()
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed while importing is no reply
    cuda_on_cpu.install()
    for name in SHARED:
        importlib.import_module(name)
    cuda_on_cpu.finish_install()
    gc.collect()
    gc.freeze()
    for line in requests:
        print(exit_code_of(json.loads(line)), file=replies, flush=True)


def exit_code_of(request: dict[str, Any]) -> int:
    """Run what is requested in a child, and wait for it."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        _become(request, parent)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # processes that the program has left behind
    return os.waitstatus_to_exitcode(status)


def _become(request: dict[str, Any], parent: int) -> None:
    """Turn this child into the process of the program, and end with it."""
    code = 1
    try:
        _separate(request, parent)
        run(request["program"], request["arguments"], Path(request["folder"]) / "answer")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _separate(request: dict[str, Any], parent: int) -> None:
    """Give this child what a new process has of its own."""
    os.setsid()
    end_with_parent(parent=parent)
    signal.alarm(request["limit_s"])
    folder = Path(request["folder"])
    for stream, (name, mode) in enumerate(((os.devnull, "r"), ("stdout", "w"), ("stderr", "w"))):
        with open(folder / name, mode) as file:
            os.dup2(file.fileno(), stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [request["program"], *map(str, request["arguments"])]
    new_random_state()


if __name__ == "__main__":
    main()
