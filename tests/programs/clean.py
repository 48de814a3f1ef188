"""Facts of the process that a program runs in."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from typing import Any


def facts() -> dict[str, Any]:
    """Modules, argument vector, session, parent's death signal and environment."""
    from tests.programs.processes import end_signal

    return {
        "argv": sys.argv,
        "torch": "torch" in sys.modules,
        "leads its session": os.getsid(0) == os.getpid(),
        "end signal": end_signal(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


def draw() -> list[Any]:
    """A number of each generator that nobody has seeded."""
    import numpy
    import torch

    return [random.random(), float(numpy.random.random()), torch.initial_seed(), float(torch.rand(1))]


def spoil() -> None:
    """Change what the next program must not see."""
    import torch

    os.environ["SPOILT"] = "1"
    sys.argv.append("spoilt")
    torch.ones = None
    random.seed(1)


def finds_torch_whole() -> list[float]:
    """Ones made by torch."""
    import torch

    return torch.ones(1).tolist()


def say_and_exit(code: int) -> None:
    """Write to both outputs, of Python and of the process, and exit."""
    print("out")
    os.write(1, b"raw out\n")
    print("err", file=sys.stderr)
    sys.exit(code)


def fail() -> None:
    """End by an error."""
    raise ValueError("enough")


def kill_itself() -> None:
    """End by a signal."""
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds: float) -> None:
    """End after so long."""
    time.sleep(seconds)


def leave_a_child(file: str) -> None:
    """End while a child is asleep, whose process id stands in ``file``."""
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    with open(file, "w") as noted:
        noted.write(str(child))


def serve(program: str, argument: int, folder: str) -> None:
    """Fork a program as the preloaded process does, without what that one imports."""
    from tests import preloaded

    request = {"program": program, "arguments": [argument], "folder": folder, "limit_s": 60}
    preloaded.exit_code_of(request | {"environment": dict(os.environ)})
