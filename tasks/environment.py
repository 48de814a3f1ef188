"""Check that this is the pinned environment: ``python -m tasks.environment verify``."""

from __future__ import annotations

import argparse

from tasks.machine.packages import verify
from tasks.util.exits import PASSED, exit_with


def main() -> int:
    """Verify, and print the environment in a line.

    Raises:
        CannotRun: it is not the pinned one.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tasks.environment",
        description="Is this the pinned environment? Exits 5 when it is not.",
    )
    parser.add_argument("action", choices=["verify"])
    parser.add_argument("--gpu", action="store_true", help="with requirements-gpu.txt on top")
    parser.add_argument("--dependencies", action="store_true", help="ask pip check too (1 s)")
    arguments = parser.parse_args()
    print(verify(gpu=arguments.gpu, dependencies=arguments.dependencies))
    return PASSED


if __name__ == "__main__":
    exit_with(main)
