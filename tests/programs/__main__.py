"""Run one program in this process: ``python -m tests.programs MODULE.FUNCTION ARGUMENTS ANSWER``."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def run(name: str, arguments: list[Any], answer: Path) -> None:
    """Call a function of a module of this package, and write what it returns into ``answer`` as JSON."""
    module, function = name.rsplit(".", 1)
    returned = getattr(importlib.import_module(f"tests.programs.{module}"), function)(*arguments)
    answer.write_text(json.dumps(returned))


if __name__ == "__main__":
    run(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))
